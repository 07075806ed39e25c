// SPDX-License-Identifier: GPL-2.0
/*
 * Flow control of a link: a work item grants credits and releases the link when its last user goes.
 *
 * Fault: an error path releases the link twice; and the state machine is advanced past its last state.
 */
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/workqueue.h>

enum flow_state {
	FLOW_IDLE,
	FLOW_OPENING,
	FLOW_OPEN,
	FLOW_CLOSING,
	FLOW_CLOSED,
};

struct flow_link {
	refcount_t users;
	int credits;
	bool failed;
};

static struct flow_link uplink = { .users = REFCOUNT_INIT(1), .credits = 8, .failed = true };
static enum flow_state flow_current_state = FLOW_OPENING;
static void flow_grant_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(flow_grant, flow_grant_work);

static noinline bool flow_link_release(struct flow_link *link)
{
	bool last;

	flow_current_state += 2;
	last = refcount_dec_and_test(&link->users);
	if (last)
		link->credits = 0;
	return last;
}

static noinline int flow_abort(struct flow_link *link)
{
	if (flow_link_release(link))
		pr_info("link released\n");
	return -EPIPE;
}

static noinline int flow_grant_credits(struct flow_link *link)
{
	int error = link->failed ? flow_abort(link) : 0;

	link->credits++;
	if (flow_link_release(link))
		pr_info("link released after the grant\n");
	flow_current_state++;
	if (refcount_read(&link->users))
		flow_link_release(link);
	return error;
}

static void flow_grant_work(struct work_struct *work)
{
	pr_info("grant: %d\n", flow_grant_credits(&uplink));
}

static int __init flowctl_init(void)
{
	schedule_delayed_work(&flow_grant, HZ / 4);
	return 0;
}
module_init(flowctl_init);
MODULE_LICENSE("GPL");
