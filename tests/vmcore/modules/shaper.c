// SPDX-License-Identifier: GPL-2.0
/*
 * Two token buckets that borrow from each other, served by one thread a CPU.
 *
 * Fault: each thread holds the spinlock of its own bucket and takes the other's (ABBA over spinlocks).
 */
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/spinlock.h>

struct token_bucket {
	spinlock_t lock;
	s64 tokens;
	struct token_bucket *lender;
};

static struct token_bucket buckets[2] = {
	{ .lock = __SPIN_LOCK_UNLOCKED(buckets[0].lock), .tokens = 10, .lender = &buckets[1] },
	{ .lock = __SPIN_LOCK_UNLOCKED(buckets[1].lock), .tokens = 20, .lender = &buckets[0] },
};
static atomic_t shaper_active = ATOMIC_INIT(0);

static noinline s64 shaper_take(struct token_bucket *bucket, s64 wanted)
{
	s64 taken;

	spin_lock(&bucket->lock);
	taken = min(bucket->tokens, wanted);
	bucket->tokens -= taken;
	spin_unlock(&bucket->lock);
	return taken;
}

static noinline s64 shaper_refill(struct token_bucket *bucket)
{
	s64 borrowed;

	spin_lock(&bucket->lock);
	atomic_inc(&shaper_active);
	while (atomic_read(&shaper_active) < 2)
		cpu_relax();
	borrowed = shaper_take(bucket->lender, 5);
	bucket->tokens += borrowed;
	spin_unlock(&bucket->lock);
	return borrowed;
}

static int shaper_thread(void *data)
{
	pr_info("borrowed %lld tokens\n", shaper_refill(data));
	return 0;
}

static int __init shaper_init(void)
{
	int cpu;

	for (cpu = 0; cpu < 2; cpu++) {
		struct task_struct *task = kthread_create(shaper_thread, &buckets[cpu], "shaper/%d", cpu);

		if (IS_ERR(task))
			return PTR_ERR(task);
		kthread_bind(task, cpu);
		wake_up_process(task);
	}
	return 0;
}
module_init(shaper_init);
MODULE_LICENSE("GPL");
