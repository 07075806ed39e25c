#!/bin/bash
# Make real kernel crash dumps with QEMU: a Debian cloud kernel as apt offers it today, faulty modules of our own
# (modules/*.c), a busybox guest that loads one of them (scenarios.json says how), and QEMU's dump of the panicked guest.
#
#   make_vmcores.sh [--out DIR] [--kernel 6.1|6.1.0-47|full-6.1|trixie-6.12|sid-7|...] [--only NAME,NAME]
#                   [--format elf|kdump|flattened|kexec] [--jobs N] [--prepare]
#
# --kernel: the start of a version; "full-" before it takes Debian's kernel for all machines instead of the cloud one,
# the name of a Debian release takes the kernel, its compiler and headers from there (root only; all stays below DIR).
# --format kexec: no dump by QEMU but as hosts make it: a crash kernel is loaded, starts at the panic and saves
# /proc/vmcore by makedumpfile in several forms.
#
# What exists is kept, so it can be started again at any time. Packages of the kernel are unpacked below DIR and never
# installed: /boot, /lib/modules and the boot loader stay as they are. Only the tools (QEMU, busybox, a compiler) are
# installed, where they are missing. --prepare stops before the first guest is started. DIR/manifest.json lists all that
# was made. Status: 0 all made, 1 something failed, 2 wrong use, 3 QEMU or a kernel cannot be had on this machine.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${XDG_CACHE_HOME:-$HOME/.cache}/wardround-tests/vmcores
series=6.1
only=
format=elf
jobs=4
prepare=

while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --kernel) series=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        --format) format=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --prepare) prepare=1; shift ;;
        *) sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

version=${series##*[a-z]-}
words=${series%"$version"}
flavour="-cloud-amd64"
case $words in *full-) flavour="[0-9]-amd64" words=${words%full-} ;; esac
suite=${words%-}
apt=()

fail() { echo "make_vmcores: $*" >&2; exit 1; }
unavailable() { echo "make_vmcores: $*" >&2; exit 3; }

# Archives keep only the latest few versions: stale lists are refreshed.
refresh_lists() { [ "$(id -u)" != 0 ] || timeout 300 apt-get update -qq >/dev/null 2>&1 || true; }

install() { DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends "$1" >/dev/null 2>&1; }

# need PACKAGE PROGRAM: install a package where its program is missing.
need() {
    command -v "$2" >/dev/null && return
    [ "$(id -u)" = 0 ] || unavailable "$2 is missing and only root can install $1"
    install "$1" || { refresh_lists; install "$1"; } || unavailable "$2 is missing and apt could not install $1"
}

# Let apt look at another Debian release, by lists of its own: the machine's own sources and packages are not touched.
use_suite() {
    local state=$out/apt/$suite name site
    mkdir -p "$state/lists/partial" && : >"$state/status" && : >"$state/sources.list"
    for name in debian:"$suite" debian-security:"$suite-security" debian:"$suite-backports"; do
        [ "$suite" != sid ] || [ "$name" = debian:sid ] || continue
        # shellcheck disable=SC2016
        site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 "/${name%%:*}/*\$") ||
            unavailable "apt names no mirror of ${name%%:*}"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site ${name#*:} main" >>"$state/sources.list"
    done
    apt=(-o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$state/lists" -o "Dir::State::status=$state/status"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none -o APT::Sandbox::User=root)
    # A release may have no backports, or none any more.
    timeout 300 apt-get "${apt[@]}" update -qq >/dev/null 2>&1 || true
}

# The newest kernel of the series whose image and headers apt can download.
resolve_kernel() {
    local name
    for name in $(apt-cache "${apt[@]}" pkgnames "linux-headers-$version" | grep -E "^linux-headers-${version}[.+-].*$flavour\$" | sort -rV); do
        release=${name#linux-headers-}
        kernel_dir=$out/$release
        root=$kernel_dir/root
        for image in "linux-image-$release" "linux-image-$release-unsigned"; do
            apt-get "${apt[@]}" download --print-uris "$image" "$name" >/dev/null 2>&1 && return
        done
    done
    return 1
}

# The packages of a release: its image (newer ones are cut in parts), headers of the flavour and common, build tools.
kernel_packages() {
    echo "$image linux-headers-$release"
    apt-cache "${apt[@]}" depends "$image" "linux-headers-$release" |
        grep -oE 'Depends: linux-(headers|kbuild|base|binary|modules)-[^ ]+' | cut -d' ' -f2 | sort -u
}

# unpack_all DIR PACKAGE...: packages with all that they need, as if nothing were installed.
unpack_all() {
    local into=$1 package
    shift
    mkdir -p "$into/deb/partial" && : >"$into/deb/status" || return
    timeout 600 apt-get "${apt[@]}" -o "Dir::State::status=$into/deb/status" -o "Dir::Cache::archives=$into/deb" \
        -o APT::Sandbox::User=root install -qq -y --download-only --no-install-recommends "$@" >/dev/null || return
    for package in "$into"/deb/*.deb; do dpkg -x "$package" "$into" || return; done
    rm -r "$into/deb"
    # Where all lies below /usr, the usual links to there are another package's.
    for package in bin sbin lib lib64; do
        [ -e "$into/$package" ] || [ ! -e "$into/usr/$package" ] || ln -s "usr/$package" "$into/$package"
    done
}

# The kernel, its headers and the guest's busybox (whose package would displace an installed dynamic one).
unpack_kernel() {
    [ ! -e "$root/unpacked" ] || return 0
    local package
    rm -rf "$root" && mkdir -p "$root/deb" || return
    # shellcheck disable=SC2046
    (cd "$root/deb" && timeout 600 apt-get "${apt[@]}" download -qq -o APT::Sandbox::User=root \
        $(kernel_packages) busybox-static 2>"$kernel_dir/apt.log") || return
    for package in "$root"/deb/*.deb; do dpkg -x "$package" "$root" || return; done
    rm -r "$root/deb"
    [ -z "$suite" ] || { unpack_all "$root" "linux-headers-$release" make binutils && touch "$root/unpacked"; return; }
    sed -i "s#/usr/src/#$root/usr/src/#" "$root/usr/src/linux-headers-$release/Makefile" && touch "$root/unpacked"
}

build_modules() {
    local build=$kernel_dir/modules stamp
    stamp=$(cat "$here"/modules/* | sha256sum)
    [ "$(cat "$build/stamp" 2>/dev/null)" = "$stamp" ] && return
    mkdir -p "$build" && cp -u --preserve=timestamps "$here"/modules/* "$build/"
    [ -z "$suite" ] || { build_within "$build" && echo "$stamp" >"$build/stamp"; return; }
    local headers=$root/usr/src/linux-headers-$release compiler
    compiler=$(grep -oE 'gcc-[0-9]+' "$headers/.config" | head -1)
    need "${compiler:-gcc}" "${compiler:-gcc}"
    # Where the headers bring the kernel's types, the build adds the modules' own (BTF).
    [ ! -e "$headers/vmlinux" ] || need pahole pahole
    timeout 600 make -s -C "$headers" "M=$build" modules >"$build/make.log" 2>&1 ||
        { tail -20 "$build/make.log" >&2; fail "the modules do not build"; }
    echo "$stamp" >"$build/stamp"
}

# Another release's compiler and kernel tools need its libraries: they run in its own root, busybox does the rest.
build_within() {
    local busybox name
    [ "$(id -u)" = 0 ] || unavailable "only root can build modules for a kernel of $suite"
    busybox=$(find "$root" -path '*/bin/busybox' -type f | head -1)
    mkdir -p "$root"/{build,dev,proc,tmp,usr/local/bin}
    for name in $("$busybox" --list); do ln -sf "${busybox#"$root"}" "$root/usr/local/bin/$name"; done
    [ -e "$root/bin/sh" ] || ln -s "${busybox#"$root"}" "$root/bin/sh"
    [ -e "$root/dev/null" ] || mknod "$root/dev/null" c 1 3
    # shellcheck disable=SC2016
    timeout 600 unshare --mount sh -ec 'mount -t proc proc "$0/proc" && mount --bind "$1" "$0/build"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin chroot "$0" make -s -C "$2" M=/build modules' \
        "$root" "$1" "/usr/src/linux-headers-$release" >"$1/make.log" 2>&1 ||
        { tail -20 "$1/make.log" >&2; fail "the modules do not build"; }
}

# What a host needs to save a crash, as the disk of the guest: kexec and makedumpfile with their libraries, both kernels.
build_crash_disk() {
    local kit=$out/apt/crash-kit${suite:+-$suite} tree
    [ -e "$kit/unpacked" ] || { rm -rf "$kit" && unpack_all "$kit" kexec-tools makedumpfile && touch "$kit/unpacked"; } ||
        unavailable "apt could not download kexec-tools and makedumpfile"
    tree=$(mktemp -d)
    mkdir -p "$tree"/{bin,lib64,lib/x86_64-linux-gnu,dev,proc,sys,tmp,out}
    find "$kit" \( -name kexec -o -name makedumpfile \) -path '*bin/*' -exec cp {} "$tree/bin/" \;
    find "$kit" -name 'lib*.so*' -not -name 'libperl*' -not -path '*/perl/*' -exec cp -P {} "$tree/lib/x86_64-linux-gnu/" \;
    cp -L "$kit"/lib64/ld-linux-x86-64.so.2 "$tree/lib64/"
    cp "$vmlinuz" "$tree/vmlinuz" && cp "$kernel_dir/initramfs.cpio.gz" "$tree/initramfs" && cp "$here/save_crash.sh" "$tree/"
    rm -f "$kernel_dir/crash.disk" && truncate -s 2G "$kernel_dir/crash.disk"
    mke2fs -q -t ext4 -d "$tree" "$kernel_dir/crash.disk" || fail "the crash kernel's disk cannot be made"
    rm -r "$tree"
}

build_initramfs() {
    local tree name packed module
    tree=$(mktemp -d)
    mkdir -p "$tree"/{bin,dev,proc,sys,tmp,modules}
    cp "$here/guest_init.sh" "$tree/init" && chmod 755 "$tree/init"
    find "$root" -path '*/bin/busybox' -type f -exec cp {} "$tree/bin/" \;
    for name in $("$tree/bin/busybox" --list); do [ -e "$tree/bin/$name" ] || ln -s busybox "$tree/bin/$name"; done
    find "$root" \( -name 'qemu_fw_cfg.ko*' -o -name 'virtio*.ko*' -path '*/virtio/*' -o -name 'virtio_blk.ko*' \) \
        -exec cp {} "$tree/modules/" \;
    for packed in "$tree"/modules/*.xz; do [ -e "$packed" ] && xz -d "$packed"; done
    for module in "$kernel_dir"/modules/*.ko; do strip --strip-debug -o "$tree/modules/${module##*/}" "$module"; done
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$kernel_dir/initramfs.part"
    mv "$kernel_dir/initramfs.part" "$kernel_dir/initramfs.cpio.gz"
    rm -r "$tree"
}

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || unavailable "this needs Debian or Ubuntu on amd64 (apt, dpkg)"
need qemu-system-x86 qemu-system-x86_64
need cpio cpio
need xz-utils xz
need make make
need binutils strip
need python3-minimal python3

mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/lock"
flock -w 1800 9 || fail "another make_vmcores.sh is at work in $out"
[ -z "$suite" ] || use_suite
{ resolve_kernel && unpack_kernel; } || { refresh_lists && resolve_kernel && unpack_kernel; } ||
    unavailable "apt offers no kernel $series that can be downloaded"
vmlinuz=$(find "$root" -name "vmlinuz-$release" -o -path "*/modules/$release/vmlinuz" | head -1)
build_modules
build_initramfs
[ "$format" != kexec ] || { need e2fsprogs mke2fs && build_crash_disk; }
[ -z "$prepare" ] || exit 0
PYTHONPATH=$here/../.. exec python3 -m tests.vmcore --kernel "$vmlinuz" --initramfs "$kernel_dir/initramfs.cpio.gz" \
    --modules "$kernel_dir/modules" --series "$series" --release "$release" --folder "$kernel_dir" \
    --format "$format" --only "$only" --jobs "$jobs"
