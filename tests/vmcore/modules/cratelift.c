// SPDX-License-Identifier: GPL-2.0
/*
 * A lift for crates, whose spinlock lies inside an allocated object: the code reaches it by pointers alone.
 *
 * Faults, by the parameter: "twice" takes the lock again in a function that it calls; "leak" returns on an error without
 * releasing it, and takes it again later; "timer" takes it in a timer that interrupts its own holder.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>

static char *fault = "twice";
module_param(fault, charp, 0);

struct crate_lift {
	u64 load[9];
	spinlock_t lock;
	struct timer_list brake;
};

static noinline u64 lift_weigh(struct crate_lift *lift)
{
	unsigned long flags;
	u64 load;

	spin_lock_irqsave(&lift->lock, flags);
	load = lift->load[0]++;
	spin_unlock_irqrestore(&lift->lock, flags);
	return load;
}

static noinline u64 lift_raise(struct crate_lift *lift)
{
	u64 load;

	spin_lock(&lift->lock);
	load = lift_weigh(lift);
	lift->load[1] += load;
	spin_unlock(&lift->lock);
	return load;
}

static noinline int lift_check(struct crate_lift *lift, int error)
{
	spin_lock(&lift->lock);
	lift->load[2]++;
	if (error)
		return error;
	spin_unlock(&lift->lock);
	return 0;
}

static noinline u64 lift_lower(struct crate_lift *lift)
{
	u64 load;

	spin_lock(&lift->lock);
	load = lift->load[3];
	spin_unlock(&lift->lock);
	return load;
}

static void lift_brake(struct timer_list *timer)
{
	struct crate_lift *lift = container_of(timer, struct crate_lift, brake);

	spin_lock(&lift->lock);
	lift->load[4]++;
	spin_unlock(&lift->lock);
}

static noinline void lift_run(struct crate_lift *lift)
{
	u64 turn;

	spin_lock(&lift->lock);
	mod_timer(&lift->brake, jiffies + 2);
	for (turn = 0; turn < 1ULL << 40; turn++)
		WRITE_ONCE(lift->load[5], turn);
	spin_unlock(&lift->lock);
}

static int lift_thread(void *data)
{
	if (!strcmp(fault, "leak")) {
		lift_check(data, -EIO);
		msleep(20);
		pr_info("lowered %llu\n", lift_lower(data));
	} else if (!strcmp(fault, "timer")) {
		lift_run(data);
	} else {
		pr_info("raised %llu\n", lift_raise(data));
	}
	return 0;
}

static int __init cratelift_init(void)
{
	struct crate_lift *lift = kzalloc(sizeof(*lift), GFP_KERNEL);
	struct task_struct *task;

	if (!lift)
		return -ENOMEM;
	spin_lock_init(&lift->lock);
	timer_setup(&lift->brake, lift_brake, 0);
	task = kthread_create(lift_thread, lift, "crate_lift");
	if (IS_ERR(task))
		return PTR_ERR(task);
	kthread_bind(task, 1);
	wake_up_process(task);
	return 0;
}
module_init(cratelift_init);
MODULE_LICENSE("GPL");
