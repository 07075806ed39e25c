// SPDX-License-Identifier: GPL-2.0
/*
 * Sessions of a protocol: the accepting thread opens them, a timer of each should close them.
 *
 * Fault: the timer is prepared but never started, so no session is ever closed: the cache grows until memory is gone.
 */
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timer.h>

struct sess_entry {
	struct list_head link;
	refcount_t users;
	u32 id;
	struct timer_list expiry;
	char peer[48];
};

static LIST_HEAD(sess_open_list);
static struct kmem_cache *sess_entry_cache;
static u32 sess_opened;

static void sess_expire(struct timer_list *timer)
{
	struct sess_entry *entry = container_of(timer, struct sess_entry, expiry);

	list_del(&entry->link);
	kmem_cache_free(sess_entry_cache, entry);
}

static noinline struct sess_entry *sess_entry_alloc(void)
{
	struct sess_entry *entry = kmem_cache_zalloc(sess_entry_cache, GFP_KERNEL);

	if (entry) {
		refcount_set(&entry->users, 1);
		timer_setup(&entry->expiry, sess_expire, 0);
	}
	return entry;
}

static noinline int sess_open(u32 id)
{
	struct sess_entry *entry = sess_entry_alloc();

	if (!entry)
		return -ENOMEM;
	entry->id = id;
	scnprintf(entry->peer, sizeof(entry->peer), "198.51.100.%u:%u", id & 0xff, 1024 + (id >> 8));
	list_add_tail(&entry->link, &sess_open_list);
	return 0;
}

static int sess_accept_thread(void *data)
{
	while (!kthread_should_stop()) {
		if (!sess_open(sess_opened))
			sess_opened++;
		cond_resched();
	}
	return 0;
}

static int __init sesscache_init(void)
{
	struct task_struct *task;

	sess_entry_cache = kmem_cache_create("sess_entry", sizeof(struct sess_entry), 0, 0, NULL);
	if (!sess_entry_cache)
		return -ENOMEM;
	task = kthread_run(sess_accept_thread, NULL, "sess_acceptd");
	return PTR_ERR_OR_ZERO(task);
}
module_init(sesscache_init);
MODULE_LICENSE("GPL");
