// SPDX-License-Identifier: GPL-2.0
/*
 * Packet counters by channel, commanded through /proc/ringstat ("flush").
 *
 * Fault: a channel that was announced but never bound has no operations, and the flush does not look.
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/string.h>
#include <linux/uaccess.h>

struct ring_channel;

struct ring_channel_ops {
	void (*reset)(struct ring_channel *channel);
	u64 (*drain)(struct ring_channel *channel);
};

struct ring_channel {
	char name[16];
	const struct ring_channel_ops *ops;
	u64 frames;
};

static void counter_reset(struct ring_channel *channel)
{
	channel->frames = 0;
}

static u64 counter_drain(struct ring_channel *channel)
{
	return channel->frames;
}

static const struct ring_channel_ops counter_ops = {
	.reset = counter_reset,
	.drain = counter_drain,
};

static struct ring_channel channels[] = {
	{ .name = "rx0", .ops = &counter_ops, .frames = 4711 },
	{ .name = "rx1", .ops = &counter_ops, .frames = 815 },
	{ .name = "mirror0" },
};
static u64 frames_flushed;

static noinline u64 ringstat_drain_channel(struct ring_channel *channel)
{
	u64 frames = channel->ops->drain(channel);

	channel->frames -= frames;
	return frames;
}

static noinline int ringstat_flush_all(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(channels); i++)
		frames_flushed += ringstat_drain_channel(&channels[i]);
	pr_info("flushed %llu frames\n", frames_flushed);
	return 0;
}

static noinline int ringstat_command(const char *command)
{
	int error;

	if (strcmp(command, "flush"))
		return -EINVAL;
	error = ringstat_flush_all();
	pr_info("command %s: %d\n", command, error);
	return error;
}

static ssize_t ringstat_write(struct file *file, const char __user *buffer, size_t size, loff_t *offset)
{
	char command[16] = "";
	int error;

	if (size >= sizeof(command) || copy_from_user(command, buffer, size))
		return -EINVAL;
	error = ringstat_command(strim(command));
	return error ? error : size;
}

static const struct proc_ops ringstat_proc_ops = {
	.proc_write = ringstat_write,
};

static int __init ringstat_init(void)
{
	return proc_create("ringstat", 0200, NULL, &ringstat_proc_ops) ? 0 : -ENOMEM;
}
module_init(ringstat_init);
MODULE_LICENSE("GPL");
