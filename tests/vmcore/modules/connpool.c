// SPDX-License-Identifier: GPL-2.0
/*
 * A pool of connections: idle ones are freed by a work item.
 *
 * Fault: the pool still holds a connection that was put, and the reaper calls its release function, in freed memory.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

struct pool_conn {
	u32 id;
	u32 users;
	int (*release)(struct pool_conn *conn);
	char peer[200];
};

static struct pool_conn *pool_slots[4];
static void pool_reap_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(pool_reap, pool_reap_work);

static int pool_conn_release(struct pool_conn *conn)
{
	u32 id = conn->id;

	kfree(conn);
	return id;
}

static noinline int pool_conn_put(struct pool_conn *conn)
{
	int id = conn->release(conn);

	return id + 1;
}

static noinline int pool_reap_slots(void)
{
	int i, sum = 0;

	for (i = 0; i < ARRAY_SIZE(pool_slots); i++)
		if (pool_slots[i])
			sum += pool_conn_put(pool_slots[i]);
	return sum;
}

static void pool_reap_work(struct work_struct *work)
{
	pr_info("reaped, sum %d\n", pool_reap_slots());
}

static noinline struct pool_conn *pool_open(u32 id)
{
	struct pool_conn *conn = kzalloc(sizeof(*conn), GFP_KERNEL);

	if (conn) {
		conn->id = id;
		conn->users = 1;
		conn->release = pool_conn_release;
		scnprintf(conn->peer, sizeof(conn->peer), "203.0.113.%u:443", id);
	}
	return conn;
}

static int __init connpool_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(pool_slots); i++)
		pool_slots[i] = pool_open(i + 1);
	if (pool_slots[0])
		pool_conn_put(pool_slots[0]);
	schedule_delayed_work(&pool_reap, HZ / 4);
	return 0;
}
module_init(connpool_init);
MODULE_LICENSE("GPL");
