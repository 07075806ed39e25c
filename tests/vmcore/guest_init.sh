#!/bin/sh
# The guest's init: QEMU's firmware interface gives the commands of the scenario and, by the vmcoreinfo device that the
# same driver serves, puts the VMCOREINFO note into the dump.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
insmod /modules/qemu_fw_cfg.ko
hostname vault7
echo "init: $(uname -r) is up"
# as NAME COMMAND: run it in a task of that name.
as() {
    printf '#!/bin/sh\n%s\n' "$2" >"/tmp/$1"
    chmod 755 "/tmp/$1"
    "/tmp/$1" &
}
. /sys/firmware/qemu_fw_cfg/by_name/opt/wardround/commands/raw
while :; do sleep 3600; done
