// SPDX-License-Identifier: GPL-2.0
/*
 * A map of volumes: a scan reads it, a resize changes it, status threads read it.
 *
 * Fault: the scan holds the map for reading and wants the I/O mutex; the resize holds that mutex and wants the map for
 * writing. Readers that come later queue behind the writer.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/wait.h>

static DECLARE_RWSEM(map_sem);
static DEFINE_MUTEX(volume_io_lock);
static DECLARE_WAIT_QUEUE_HEAD(volmap_wait);
static atomic_t volmap_started = ATOMIC_INIT(0);
static u64 sectors = 1 << 20, scanned;

static noinline void volmap_begin(void)
{
	atomic_inc(&volmap_started);
	wake_up_all(&volmap_wait);
	wait_event(volmap_wait, atomic_read(&volmap_started) >= 2);
}

static noinline u64 volmap_read_superblock(void)
{
	u64 found;

	mutex_lock(&volume_io_lock);
	found = sectors >> 3;
	mutex_unlock(&volume_io_lock);
	return found;
}

static noinline u64 volmap_scan_volumes(void)
{
	u64 found;

	down_read(&map_sem);
	volmap_begin();
	found = volmap_read_superblock();
	scanned += found;
	up_read(&map_sem);
	return found;
}

static noinline u64 volmap_replace_table(u64 size)
{
	u64 old;

	down_write(&map_sem);
	old = sectors;
	sectors = size;
	up_write(&map_sem);
	return old;
}

static noinline u64 volmap_resize(u64 size)
{
	u64 old;

	mutex_lock(&volume_io_lock);
	volmap_begin();
	old = volmap_replace_table(size);
	mutex_unlock(&volume_io_lock);
	return size - old;
}

static noinline u64 volmap_query(void)
{
	u64 size;

	down_read(&map_sem);
	size = sectors;
	up_read(&map_sem);
	return size;
}

static int volmap_scan_thread(void *data)
{
	pr_info("%llu sectors scanned\n", volmap_scan_volumes());
	return 0;
}

static int volmap_resize_thread(void *data)
{
	pr_info("grown by %llu\n", volmap_resize(1 << 21));
	return 0;
}

static int volmap_status_thread(void *data)
{
	wait_event(volmap_wait, atomic_read(&volmap_started) >= 2);
	msleep(1500);
	pr_info("%llu sectors\n", volmap_query());
	return 0;
}

static int __init volmap_init(void)
{
	kthread_run(volmap_scan_thread, NULL, "vol_scan");
	kthread_run(volmap_resize_thread, NULL, "vol_resize");
	kthread_run(volmap_status_thread, NULL, "vol_stat/0");
	kthread_run(volmap_status_thread, NULL, "vol_stat/1");
	return 0;
}
module_init(volmap_init);
MODULE_LICENSE("GPL");
