// SPDX-License-Identifier: GPL-2.0
/*
 * A journalled table: one thread commits the journal, one compacts the index, one reports.
 *
 * Fault: the commit takes the journal's mutex and then the index', the compaction the other way round (ABBA). The
 * reporter only waits behind them. Each of the two waits until the other has begun, so that it happens every time.
 */
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/wait.h>

static DEFINE_MUTEX(journal_lock);
static DEFINE_MUTEX(index_lock);
static DECLARE_WAIT_QUEUE_HEAD(jtable_busy_wait);
static atomic_t jtable_busy = ATOMIC_INIT(0);
static u64 entries = 64, committed;

static noinline void jtable_enter_batch(void)
{
	atomic_inc(&jtable_busy);
	wake_up_all(&jtable_busy_wait);
	wait_event(jtable_busy_wait, atomic_read(&jtable_busy) >= 2);
}

static noinline int jtable_update_index(u64 count)
{
	mutex_lock(&index_lock);
	entries += count;
	mutex_unlock(&index_lock);
	return 0;
}

static noinline int jtable_commit_batch(void)
{
	int error;

	mutex_lock(&journal_lock);
	jtable_enter_batch();
	error = jtable_update_index(16);
	committed += 16;
	mutex_unlock(&journal_lock);
	return error;
}

static noinline int jtable_drop_records(u64 count)
{
	mutex_lock(&journal_lock);
	committed -= min(committed, count);
	mutex_unlock(&journal_lock);
	return 0;
}

static noinline int jtable_compact(void)
{
	int error;

	mutex_lock(&index_lock);
	jtable_enter_batch();
	error = jtable_drop_records(8);
	entries -= 8;
	mutex_unlock(&index_lock);
	return error;
}

static noinline int jtable_report(void)
{
	u64 count;

	wait_event(jtable_busy_wait, atomic_read(&jtable_busy) >= 2);
	mutex_lock(&index_lock);
	count = entries;
	mutex_unlock(&index_lock);
	pr_info("%llu entries\n", count);
	return 0;
}

static int jtable_commit_thread(void *data)
{
	int error = jtable_commit_batch();

	pr_info("commit: %d\n", error);
	return error;
}

static int jtable_compact_thread(void *data)
{
	int error = jtable_compact();

	pr_info("compact: %d\n", error);
	return error;
}

static int jtable_report_thread(void *data)
{
	int error = jtable_report();

	pr_info("report: %d\n", error);
	return error;
}

static int __init jtable_init(void)
{
	kthread_run(jtable_commit_thread, NULL, "jt_commit");
	kthread_run(jtable_compact_thread, NULL, "jt_compact");
	kthread_run(jtable_report_thread, NULL, "jt_report");
	return 0;
}
module_init(jtable_init);
MODULE_LICENSE("GPL");
