// SPDX-License-Identifier: GPL-2.0
/*
 * A queue of delayed jobs, cancelled through /proc/dqueue and retired by a work item.
 *
 * Fault: a cancelled job is taken off the list and still retired, which takes it off a second time.
 */
#include <linux/list.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/workqueue.h>

struct dq_job {
	struct list_head link;
	int number;
	bool cancelled;
};

static struct dq_job jobs[4];
static LIST_HEAD(dq_pending);
static void dq_retire_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(dq_retire, dq_retire_work);

static noinline int dq_unlink(struct dq_job *job)
{
	list_del(&job->link);
	return job->number;
}

static noinline int dq_cancel_job(int number)
{
	struct dq_job *job = &jobs[number % ARRAY_SIZE(jobs)];

	job->cancelled = true;
	return dq_unlink(job);
}

static noinline int dq_retire_all(void)
{
	int i, retired = 0;

	for (i = 0; i < ARRAY_SIZE(jobs); i++)
		retired += dq_unlink(&jobs[i]) >= 0;
	return retired;
}

static void dq_retire_work(struct work_struct *work)
{
	pr_info("%d jobs retired\n", dq_retire_all());
}

static ssize_t dqueue_write(struct file *file, const char __user *buffer, size_t size, loff_t *offset)
{
	pr_info("job %d cancelled\n", dq_cancel_job(2));
	schedule_delayed_work(&dq_retire, HZ / 4);
	return size;
}

static const struct proc_ops dqueue_proc_ops = {
	.proc_write = dqueue_write,
};

static int __init dqueue_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(jobs); i++) {
		jobs[i].number = i;
		list_add_tail(&jobs[i].link, &dq_pending);
	}
	return proc_create("dqueue", 0200, NULL, &dqueue_proc_ops) ? 0 : -ENOMEM;
}
module_init(dqueue_init);
MODULE_LICENSE("GPL");
