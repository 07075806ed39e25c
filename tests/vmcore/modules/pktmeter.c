// SPDX-License-Identifier: GPL-2.0
/*
 * Rates of packets, rotated by a write to /proc/pktmeter.
 *
 * Fault: the rotation holds the meter's spinlock and calls the snapshot, which takes the same lock.
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/spinlock.h>

struct pkt_meter {
	spinlock_t lock;
	u64 packets;
	u64 window[8];
	unsigned int head;
};

static struct pkt_meter meter = {
	.lock = __SPIN_LOCK_UNLOCKED(meter.lock),
	.packets = 90210,
};

static noinline u64 pktmeter_snapshot(struct pkt_meter *m)
{
	u64 packets;

	spin_lock(&m->lock);
	packets = m->packets;
	spin_unlock(&m->lock);
	return packets;
}

static noinline u64 pktmeter_rotate(struct pkt_meter *m)
{
	u64 packets;

	spin_lock(&m->lock);
	packets = pktmeter_snapshot(m);
	m->window[m->head++ % ARRAY_SIZE(m->window)] = packets;
	m->packets = 0;
	spin_unlock(&m->lock);
	return packets;
}

static ssize_t pktmeter_write(struct file *file, const char __user *buffer, size_t size, loff_t *offset)
{
	pr_info("%llu packets in the last window\n", pktmeter_rotate(&meter));
	return size;
}

static const struct proc_ops pktmeter_proc_ops = {
	.proc_write = pktmeter_write,
};

static int __init pktmeter_init(void)
{
	return proc_create("pktmeter", 0200, NULL, &pktmeter_proc_ops) ? 0 : -ENOMEM;
}
module_init(pktmeter_init);
MODULE_LICENSE("GPL");
