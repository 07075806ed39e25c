// SPDX-License-Identifier: GPL-2.0
/*
 * A tree of routes, printed depth first by a read of /proc/routetree.
 *
 * Fault: a route was moved below its own child; the walk never ends and runs off the kernel stack.
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

struct route_node {
	u32 prefix;
	struct route_node *left;
	struct route_node *right;
};

static struct route_node nodes[3] = {
	{ .prefix = 0x0a000000, .left = &nodes[1] },
	{ .prefix = 0x0a010000, .left = &nodes[2] },
	{ .prefix = 0x0a010100, .left = &nodes[1] },
};

static noinline int routetree_format(char *text, size_t size, const struct route_node *node)
{
	return scnprintf(text, size, "%08x/%d\n", node->prefix, 24);
}

static noinline int routetree_walk(struct seq_file *seq, const struct route_node *node)
{
	char text[96];
	int length, below = 0;

	length = routetree_format(text, sizeof(text), node);
	if (node->left)
		below += routetree_walk(seq, node->left);
	if (node->right)
		below += routetree_walk(seq, node->right);
	seq_write(seq, text, length);
	return below + 1;
}

static int routetree_show(struct seq_file *seq, void *data)
{
	int count = routetree_walk(seq, &nodes[0]);

	seq_printf(seq, "%d routes\n", count);
	return 0;
}

static int __init routetree_init(void)
{
	return proc_create_single("routetree", 0400, NULL, routetree_show) ? 0 : -ENOMEM;
}
module_init(routetree_init);
MODULE_LICENSE("GPL");
