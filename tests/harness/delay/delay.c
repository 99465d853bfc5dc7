// SPDX-License-Identifier: GPL-2.0
/*
 * Holds up whoever calls functions of the kernel, so that a race has its time. For tests only.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>

#define MOST 4

static char *function[MOST];
static int functions;
module_param_array(function, charp, &functions, 0444);
MODULE_PARM_DESC(function, "which functions; one of a module's is named MODULE:FUNCTION");

static unsigned int ms[MOST];
module_param_array(ms, uint, NULL, 0444);
MODULE_PARM_DESC(ms, "how long each is held up, in milliseconds");

static struct kprobe probes[MOST];
static struct kprobe *list[MOST];

static int delay_enter(struct kprobe *probe, struct pt_regs *regs)
{
	mdelay(ms[probe - probes]);
	return 0;
}

static int __init delay_init(void)
{
	int i;

	for (i = 0; i < functions; i++) {
		probes[i].symbol_name = function[i];
		probes[i].pre_handler = delay_enter;
		list[i] = &probes[i];
	}
	return register_kprobes(list, functions);
}

static void __exit delay_exit(void)
{
	unregister_kprobes(list, functions);
}

module_init(delay_init);
module_exit(delay_exit);
MODULE_DESCRIPTION("Delay in a function of the kernel");
MODULE_LICENSE("GPL");
