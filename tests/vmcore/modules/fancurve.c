// SPDX-License-Identifier: GPL-2.0
/*
 * The curve of a fan by temperature.
 *
 * Fault: the module fills in the default curve while it is loaded, before any device has registered one; the code lies
 * in the module's initialisation part, which is freed once that is over.
 */
#include <linux/module.h>

struct fancurve {
	const char *device;
	int points;
	int percent[8];
};

static struct fancurve *volatile fancurve_active;

static noinline __init int fancurve_set_default(int step)
{
	struct fancurve *curve = fancurve_active;
	int i;

	for (i = 0; i < 8; i++)
		curve->percent[i] = i * step;
	curve->points = 8;
	return curve->points;
}

static int __init fancurve_init(void)
{
	int points = fancurve_set_default(12);

	pr_info("%d points\n", points);
	return 0;
}
module_init(fancurve_init);
MODULE_LICENSE("GPL");
