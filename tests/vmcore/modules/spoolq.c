// SPDX-License-Identifier: GPL-2.0
/*
 * A print spool: a counting semaphore for the slots of the device, a mutex for the list of jobs.
 *
 * Fault: printing takes a slot and then the mutex, cancelling the mutex and then a slot. A semaphore remembers no
 * owner, so one edge of the cycle must be inferred.
 */
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/semaphore.h>
#include <linux/wait.h>

static struct semaphore spool_slots;
static DEFINE_MUTEX(spool_jobs_lock);
static DECLARE_WAIT_QUEUE_HEAD(spool_wait);
static atomic_t spool_started = ATOMIC_INIT(0);
static int spool_jobs = 3;

static noinline void spool_begin(void)
{
	atomic_inc(&spool_started);
	wake_up_all(&spool_wait);
	wait_event(spool_wait, atomic_read(&spool_started) >= 2);
}

static noinline int spool_next_job(void)
{
	int job;

	mutex_lock(&spool_jobs_lock);
	job = spool_jobs--;
	mutex_unlock(&spool_jobs_lock);
	return job;
}

static noinline int spool_print(void)
{
	int job;

	down(&spool_slots);
	spool_begin();
	job = spool_next_job();
	up(&spool_slots);
	return job;
}

static noinline int spool_quiet_device(void)
{
	down(&spool_slots);
	pr_info("device is quiet\n");
	up(&spool_slots);
	return 0;
}

static noinline int spool_cancel_all(void)
{
	int error;

	mutex_lock(&spool_jobs_lock);
	spool_begin();
	error = spool_quiet_device();
	spool_jobs = 0;
	mutex_unlock(&spool_jobs_lock);
	return error;
}

static int spool_print_thread(void *data)
{
	pr_info("printed job %d\n", spool_print());
	return 0;
}

static int spool_cancel_thread(void *data)
{
	pr_info("cancelled: %d\n", spool_cancel_all());
	return 0;
}

static int __init spoolq_init(void)
{
	sema_init(&spool_slots, 1);
	kthread_run(spool_print_thread, NULL, "spool_print");
	kthread_run(spool_cancel_thread, NULL, "spool_cancel");
	return 0;
}
module_init(spoolq_init);
MODULE_LICENSE("GPL");
