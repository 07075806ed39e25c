#!/bin/sh
# Installs the distribution's packages that Wardround uses, or says which are missing.
#   deploy/system-packages.sh diagnose   what the command itself can use
#   deploy/system-packages.sh test       also what the tests inject faults with
# Needs root and apt to install; otherwise it lists what is missing and goes on: every part degrades without them.
set -u
purpose=${1:-diagnose}

# What for:             eBPF collectors        address and namespace views
packages="python3-venv  python3-bpfcc          iproute2"
if [ "$purpose" = test ]; then
  # faults in C          packet loss  filesystems  packages' file lists   load           the engine's library
  packages="$packages gcc libc6-dev  nftables     e2fsprogs               procps util-linux kmod stress-ng fio libgomp1"
fi

missing=""
for package in $packages; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done

# BCC compiles against kernel headers: those of the running kernel where the distribution has them, else any of the
# distribution's, borrowed for tracepoint programs only.
have_headers() { [ -d "/lib/modules/$(uname -r)/build" ] || ls -d /usr/src/linux-headers-* >/dev/null 2>&1; }

install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null; }

if [ -z "$missing" ] && have_headers; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  have_headers || missing="$missing linux-headers"
  echo "system packages missing (install them as root for full coverage):$missing" >&2
  exit 0
fi

echo "installing system packages:$missing" >&2
apt-get update -q >/dev/null || echo "the package lists could not be refreshed; going on with what is there" >&2
# One by one: a package that this distribution lacks costs only its own part.
for package in $missing; do
  install "$package" || echo "could not install $package: the part that uses it will say so" >&2
done
if ! have_headers; then
  for headers in "linux-headers-$(uname -r)" linux-headers-cloud-amd64 "linux-headers-$(dpkg --print-architecture)" linux-headers-generic; do
    if apt-cache show "$headers" >/dev/null 2>&1 && install "$headers"; then
      break
    fi
  done
  have_headers || echo "no kernel headers could be installed: eBPF collectors will be off" >&2
fi
exit 0
