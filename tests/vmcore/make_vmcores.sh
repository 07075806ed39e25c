#!/bin/bash
# Make real kernel crash dumps with QEMU: a Debian cloud kernel as apt offers it today, faulty modules of our own
# (modules/*.c), a busybox guest that loads one of them (scenarios.json says how), and QEMU's dump of the panicked guest.
#
#   make_vmcores.sh [--out DIR] [--kernel 6.1|6.12|6.1.0-47|...] [--only NAME,NAME] [--format elf|kdump|flattened]
#                   [--jobs N] [--prepare]
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
        *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

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

# The newest kernel of the series whose image and headers apt can download.
resolve_kernel() {
    local name
    for name in $(apt-cache pkgnames "linux-headers-$series" | grep -E "^linux-headers-${series}[.+-].*cloud-amd64\$" | sort -rV); do
        release=${name#linux-headers-}
        kernel_dir=$out/$release
        root=$kernel_dir/root
        for image in "linux-image-$release" "linux-image-$release-unsigned"; do
            apt-get download --print-uris "$image" "$name" >/dev/null 2>&1 && return
        done
    done
    return 1
}

# The header packages of a release: the flavour's, the common one and the build tools.
header_packages() {
    echo "linux-headers-$release"
    apt-cache depends "linux-headers-$release" | grep -oE 'Depends: linux-(headers|kbuild)-[^ ]+' | cut -d' ' -f2 | sort -u
}

# The kernel, its headers and the guest's busybox (whose package would displace an installed dynamic one).
unpack_kernel() {
    [ ! -e "$root/unpacked" ] || return 0
    local package
    rm -rf "$root" && mkdir -p "$root/deb" || return
    # shellcheck disable=SC2046
    (cd "$root/deb" && timeout 600 apt-get download -qq -o APT::Sandbox::User=root \
        "$image" $(header_packages) busybox-static 2>"$kernel_dir/apt.log") || return
    for package in "$root"/deb/*.deb; do dpkg -x "$package" "$root" || return; done
    rm -r "$root/deb"
    sed -i "s#/usr/src/#$root/usr/src/#" "$root/usr/src/linux-headers-$release/Makefile" && touch "$root/unpacked"
}

build_modules() {
    local build=$kernel_dir/modules stamp
    stamp=$(cat "$here"/modules/* | sha256sum)
    [ "$(cat "$build/stamp" 2>/dev/null)" = "$stamp" ] && return
    local headers=$root/usr/src/linux-headers-$release compiler
    compiler=$(grep -oE 'gcc-[0-9]+' "$headers/.config" | head -1)
    need "${compiler:-gcc}" "${compiler:-gcc}"
    # Where the headers bring the kernel's types, the build adds the modules' own (BTF).
    [ ! -e "$headers/vmlinux" ] || need pahole pahole
    mkdir -p "$build" && cp -u --preserve=timestamps "$here"/modules/* "$build/"
    timeout 600 make -s -C "$headers" "M=$build" modules >"$build/make.log" 2>&1 ||
        { tail -20 "$build/make.log" >&2; fail "the modules do not build"; }
    echo "$stamp" >"$build/stamp"
}

build_initramfs() {
    local tree name packed module
    tree=$(mktemp -d)
    mkdir -p "$tree"/{bin,dev,proc,sys,tmp,modules}
    cp "$here/guest_init.sh" "$tree/init" && chmod 755 "$tree/init"
    find "$root" -path '*/bin/busybox' -exec cp {} "$tree/bin/" \;
    for name in $("$tree/bin/busybox" --list); do [ -e "$tree/bin/$name" ] || ln -s busybox "$tree/bin/$name"; done
    find "$root" -name 'qemu_fw_cfg.ko*' -exec cp {} "$tree/modules/" \;
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
{ resolve_kernel && unpack_kernel; } || { refresh_lists && resolve_kernel && unpack_kernel; } ||
    unavailable "apt offers no cloud kernel of series $series that can be downloaded"
build_modules
build_initramfs
[ -z "$prepare" ] || exit 0
exec python3 "$here/guest.py" --kernel "$root/boot/vmlinuz-$release" --initramfs "$kernel_dir/initramfs.cpio.gz" \
    --modules "$kernel_dir/modules" --series "$series" --release "$release" --folder "$kernel_dir" \
    --format "$format" --only "$only" --jobs "$jobs"
