// SPDX-License-Identifier: GPL-2.0
/*
 * Labels of ports, set through /proc/labelfmt.
 *
 * Fault: the decoder copies as many bytes as the text says into an array of 16 on its stack; the compiler's stack
 * protector sees it when the function returns.
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>

static char label_current[16] = "uplink";

static noinline int label_decode(const char *text, size_t length)
{
	char label[16];
	size_t i;

	for (i = 0; i < length; i++)
		((volatile char *)label)[i] = text[i] ^ 0x20;
	for (i = 0; i < sizeof(label); i++)
		label_current[i] = ((volatile char *)label)[i];
	return length;
}

static noinline int label_set(const char *text, size_t size)
{
	int length = label_decode(text, size);

	pr_info("label of %d bytes\n", length);
	return length;
}

static ssize_t labelfmt_write(struct file *file, const char __user *buffer, size_t size, loff_t *offset)
{
	char text[128];
	int length;

	if (size > sizeof(text) || copy_from_user(text, buffer, size))
		return -EINVAL;
	length = label_set(text, size);
	return length < 0 ? length : size;
}

static const struct proc_ops labelfmt_proc_ops = {
	.proc_write = labelfmt_write,
};

static int __init labelfmt_init(void)
{
	return proc_create("labelfmt", 0200, NULL, &labelfmt_proc_ops) ? 0 : -ENOMEM;
}
module_init(labelfmt_init);
MODULE_LICENSE("GPL");
