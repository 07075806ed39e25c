// SPDX-License-Identifier: GPL-2.0
/*
 * Loads firmware into a device: a request waits until the device's thread reports that it is done.
 *
 * Fault: the thread wakes only those that already wait at that moment, and the request comes too late (a lost wake-up).
 */
#include <linux/completion.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/swait.h>

struct fw_request {
	u32 size;
	bool announced;
	struct completion done;
};

static struct fw_request boot_request = {
	.size = 65536,
	.done = COMPLETION_INITIALIZER(boot_request.done),
};

static noinline bool fwload_finish(struct fw_request *request)
{
	if (swait_active(&request->done.wait))
		complete(&request->done);
	return true;
}

static int fwload_device_thread(void *data)
{
	struct fw_request *request = data;

	pr_info("device ready: %d\n", fwload_finish(request));
	request->announced = true;
	return 0;
}

static noinline int fwload_wait_device(struct fw_request *request)
{
	wait_for_completion(&request->done);
	return request->announced ? 0 : -EIO;
}

static noinline int fwload_transfer(struct fw_request *request)
{
	int error = fwload_wait_device(request);

	pr_info("%u bytes loaded: %d\n", request->size, error);
	return error;
}

static ssize_t fwload_write(struct file *file, const char __user *buffer, size_t size, loff_t *offset)
{
	int error = fwload_transfer(&boot_request);

	return error ? error : size;
}

static const struct proc_ops fwload_proc_ops = {
	.proc_write = fwload_write,
};

static int __init fwload_init(void)
{
	struct task_struct *task = kthread_run(fwload_device_thread, &boot_request, "fw_device");

	if (IS_ERR(task))
		return PTR_ERR(task);
	return proc_create("fwload", 0200, NULL, &fwload_proc_ops) ? 0 : -ENOMEM;
}
module_init(fwload_init);
MODULE_LICENSE("GPL");
