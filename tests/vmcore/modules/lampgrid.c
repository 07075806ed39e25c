// SPDX-License-Identifier: GPL-2.0
/*
 * A controller of street lamps that takes locks of the rarer kinds.
 *
 * Faults, by the parameter: "rtmutex" takes two rt_mutexes in different orders, and a third thread queues behind;
 * "rwlock" writes what the same thread reads; "percpu" has a reader that never ends, a writer that waits for it and a
 * late reader that waits for the writer.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/percpu-rwsem.h>
#include <linux/rtmutex.h>
#include <linux/spinlock.h>

static char *fault = "rtmutex";
module_param(fault, charp, 0);

static DEFINE_RT_MUTEX(grid_lock);
static DEFINE_RT_MUTEX(timer_lock);
static DEFINE_RWLOCK(lamp_lock);
static struct percpu_rw_semaphore plan_sem;
static DECLARE_COMPLETION(never);

static noinline void lamp_take_second(struct rt_mutex *second)
{
	rt_mutex_lock(second);
	rt_mutex_unlock(second);
	barrier();
}

static int lamp_dim_thread(void *unused)
{
	rt_mutex_lock(&grid_lock);
	msleep(300);
	lamp_take_second(&timer_lock);
	rt_mutex_unlock(&grid_lock);
	return 0;
}

static int lamp_clock_thread(void *unused)
{
	rt_mutex_lock(&timer_lock);
	msleep(300);
	lamp_take_second(&grid_lock);
	rt_mutex_unlock(&timer_lock);
	return 0;
}

static int lamp_status_thread(void *unused)
{
	msleep(600);
	lamp_take_second(&grid_lock);
	return 0;
}

static noinline void lamp_replace(void)
{
	write_lock(&lamp_lock);
	write_unlock(&lamp_lock);
	barrier();
}

static int lamp_swap_thread(void *unused)
{
	read_lock(&lamp_lock);
	lamp_replace();
	read_unlock(&lamp_lock);
	return 0;
}

static noinline void lamp_await_plan(void)
{
	wait_for_completion(&never);
	barrier();
}

static int lamp_reader_thread(void *unused)
{
	percpu_down_read(&plan_sem);
	lamp_await_plan();
	percpu_up_read(&plan_sem);
	return 0;
}

static int lamp_writer_thread(void *unused)
{
	msleep(300);
	percpu_down_write(&plan_sem);
	percpu_up_write(&plan_sem);
	return 0;
}

static int lamp_late_thread(void *unused)
{
	msleep(900);
	percpu_down_read(&plan_sem);
	percpu_up_read(&plan_sem);
	return 0;
}

static int __init lampgrid_init(void)
{
	if (!strcmp(fault, "rwlock")) {
		kthread_run(lamp_swap_thread, NULL, "lamp_swap");
	} else if (!strcmp(fault, "percpu")) {
		if (percpu_init_rwsem(&plan_sem))
			return -ENOMEM;
		kthread_run(lamp_reader_thread, NULL, "lamp_reader");
		kthread_run(lamp_writer_thread, NULL, "lamp_writer");
		kthread_run(lamp_late_thread, NULL, "lamp_late");
	} else {
		kthread_run(lamp_dim_thread, NULL, "lamp_dim");
		kthread_run(lamp_clock_thread, NULL, "lamp_clock");
		kthread_run(lamp_status_thread, NULL, "lamp_status");
	}
	return 0;
}
module_init(lampgrid_init);
MODULE_LICENSE("GPL");
