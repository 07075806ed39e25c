#!/bin/sh
# Runs in the guest, from its second disk: in the kernel that is to crash it loads the crash kernel, in the crash kernel
# it saves /proc/vmcore in all forms that hosts do and ends the guest.
mount --bind /proc /disk/proc
mount --bind /sys /disk/sys
mount --bind /dev /disk/dev

if [ ! -e /proc/vmcore ]; then
    chroot /disk kexec -c -p /vmlinuz --initrd=/initramfs --append="console=ttyS0 maxcpus=1 reset_devices panic=1" 2>&1
    sync
    return 0
fi
# save NAME ARGUMENT...: without its progress bar, which would be most of the log.
save() {
    name=$1
    shift
    chroot /disk makedumpfile --message-level 28 "$@" /proc/vmcore "/out/$name" >/disk/tmp/said 2>&1 ||
        echo "not saved: $name: $(tail -n 1 /disk/tmp/said)"
}
save kexec -l -d 31
save kexec-zlib -c -d 31
save kexec-elf31 -E -d 31
save kexec-dmesg --dump-dmesg
chroot /disk makedumpfile -F -l -d 31 /proc/vmcore >/disk/out/kexec-flat 2>/dev/null || echo "not saved: kexec-flat"
cp /proc/vmcore /disk/out/kexec-elf
sync
umount /disk/proc /disk/sys /disk/dev
umount /disk
echo "the crash is saved"
poweroff -f
