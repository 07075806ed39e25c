// SPDX-License-Identifier: GPL-2.0
/*
 * A dockyard in which everybody waits for somebody, each pair in another way.
 *
 * Faults: a semaphore and a mutex inside an allocated berth, taken in both orders; the same with a semaphore that only
 * helper functions touch; a mutex taken twice; a work item flushed under the mutex it wants; a thread stopped under the
 * mutex it wants; a reader and a writer in a cycle while another reader was the last to come. And no fault of locks: a
 * task that holds a mutex waits for an event, with two tasks behind it, one of them interruptibly.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/sched/task.h>
#include <linux/semaphore.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

struct berth {
	u64 moored;
	char name[48];
	struct mutex gate;
	struct semaphore cranes;
	struct work_struct inspection;
	wait_queue_head_t tide;
};

static struct berth *north, *south, *inner;
static struct semaphore tugs;
static DEFINE_MUTEX(harbour_lock);
static DEFINE_MUTEX(night_lock);
static DEFINE_MUTEX(lock_gate);
static DEFINE_MUTEX(chart_lock);
static DECLARE_RWSEM(chart_sem);

static noinline u64 berth_close(struct berth *berth)
{
	u64 moored;

	mutex_lock(&berth->gate);
	moored = berth->moored++;
	mutex_unlock(&berth->gate);
	return moored;
}

static noinline u64 berth_lift(struct berth *berth)
{
	u64 moored;

	down(&berth->cranes);
	moored = berth->moored--;
	up(&berth->cranes);
	return moored;
}

static int unload_thread(void *data)
{
	struct berth *berth = data;

	down(&berth->cranes);
	msleep(300);
	berth->moored += berth_close(berth);
	up(&berth->cranes);
	return 0;
}

static int moor_thread(void *data)
{
	struct berth *berth = data;

	mutex_lock(&berth->gate);
	msleep(300);
	berth->moored += berth_lift(berth);
	mutex_unlock(&berth->gate);
	return 0;
}

static noinline void tugs_order(void)
{
	down(&tugs);
	north->moored++;
}

static noinline void tugs_dismiss(void)
{
	north->moored--;
	up(&tugs);
}

static noinline int tow_out(void)
{
	int moored;

	tugs_order();
	msleep(300);
	mutex_lock(&harbour_lock);
	moored = north->moored;
	mutex_unlock(&harbour_lock);
	tugs_dismiss();
	return moored;
}

static noinline int harbour_clear(void)
{
	int moored;

	mutex_lock(&harbour_lock);
	msleep(300);
	tugs_order();
	moored = north->moored;
	tugs_dismiss();
	mutex_unlock(&harbour_lock);
	return moored;
}

static int tow_thread(void *data)
{
	return tow_out() < 0;
}

static int harbour_thread(void *data)
{
	return harbour_clear() < 0;
}

static noinline int berth_reopen(struct berth *berth)
{
	int error = mutex_lock_killable(&berth->gate);

	berth->moored++;
	return error;
}

static int repaint_thread(void *data)
{
	struct berth *berth = data;
	int error;

	mutex_lock(&berth->gate);
	error = berth_reopen(berth);
	mutex_unlock(&berth->gate);
	return error;
}

static void inspection_work(struct work_struct *work)
{
	struct berth *berth = container_of(work, struct berth, inspection);

	msleep(300);
	mutex_lock(&berth->gate);
	berth->moored++;
	mutex_unlock(&berth->gate);
}

static int survey_thread(void *data)
{
	struct berth *berth = data;

	mutex_lock(&berth->gate);
	schedule_work(&berth->inspection);
	msleep(100);
	flush_work(&berth->inspection);
	mutex_unlock(&berth->gate);
	return 0;
}

static int watch_thread(void *data)
{
	msleep(400);
	mutex_lock(&night_lock);
	mutex_unlock(&night_lock);
	while (!kthread_should_stop())
		msleep(50);
	return 0;
}

static int relieve_thread(void *data)
{
	mutex_lock(&night_lock);
	msleep(200);
	kthread_stop(data);
	mutex_unlock(&night_lock);
	return 0;
}

static int lockkeeper_thread(void *data)
{
	mutex_lock(&lock_gate);
	wait_event(north->tide, north->moored == ~0ULL);
	mutex_unlock(&lock_gate);
	return 0;
}

static int barge_thread(void *data)
{
	msleep(100);
	mutex_lock(&lock_gate);
	mutex_unlock(&lock_gate);
	return 0;
}

static int yacht_thread(void *data)
{
	msleep(100);
	if (!mutex_lock_interruptible(&lock_gate))
		mutex_unlock(&lock_gate);
	return 0;
}

static int pilot_thread(void *data)
{
	down_read(&chart_sem);
	msleep(400);
	mutex_lock(&chart_lock);
	mutex_unlock(&chart_lock);
	up_read(&chart_sem);
	return 0;
}

static int late_reader_thread(void *data)
{
	msleep(100);
	down_read(&chart_sem);
	msleep(3600000);
	up_read(&chart_sem);
	return 0;
}

static int surveyor_thread(void *data)
{
	mutex_lock(&chart_lock);
	msleep(300);
	down_write(&chart_sem);
	up_write(&chart_sem);
	mutex_unlock(&chart_lock);
	return 0;
}

static struct berth *berth_build(void)
{
	struct berth *berth = kzalloc(sizeof(*berth), GFP_KERNEL);

	if (berth) {
		mutex_init(&berth->gate);
		sema_init(&berth->cranes, 1);
		INIT_WORK(&berth->inspection, inspection_work);
		init_waitqueue_head(&berth->tide);
	}
	return berth;
}

static int __init dockyard_init(void)
{
	struct task_struct *watch;

	north = berth_build();
	south = berth_build();
	inner = berth_build();
	watch = kthread_create(watch_thread, NULL, "dock_watch");
	if (!north || !south || !inner || IS_ERR(watch))
		return -ENOMEM;
	sema_init(&tugs, 1);
	wake_up_process(get_task_struct(watch));
	kthread_run(unload_thread, north, "dock_unload");
	kthread_run(moor_thread, north, "dock_moor");
	kthread_run(tow_thread, NULL, "dock_tow");
	kthread_run(harbour_thread, NULL, "dock_harbour");
	kthread_run(repaint_thread, south, "dock_repaint");
	kthread_run(survey_thread, inner, "dock_survey");
	kthread_run(relieve_thread, watch, "dock_relieve");
	kthread_run(lockkeeper_thread, NULL, "dock_keeper");
	kthread_run(barge_thread, NULL, "dock_barge");
	kthread_run(yacht_thread, NULL, "dock_yacht");
	kthread_run(pilot_thread, NULL, "dock_pilot");
	kthread_run(late_reader_thread, NULL, "dock_late");
	kthread_run(surveyor_thread, NULL, "dock_surveyor");
	return 0;
}
module_init(dockyard_init);
MODULE_LICENSE("GPL");
