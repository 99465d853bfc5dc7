// SPDX-License-Identifier: GPL-2.0
/* Threads, bells and deferred work. */
#include <linux/completion.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/sched/task.h>
#include <linux/workqueue.h>

/* A thread that does not run yet, held for kthread_stop_put(). */
struct task_struct *carisma_helper_kthread_create(int (*fn)(void *), void *data, const char *name)
{
	struct task_struct *task = kthread_create(fn, data, "%s", name);

	if (!IS_ERR(task))
		get_task_struct(task);
	return task;
}

void carisma_helper_bell_init(struct completion *bell)
{
	init_completion(bell);
}

/* Wait until the bell has rung, for so many milliseconds at most, and silence it. */
void carisma_helper_bell_wait(struct completion *bell, unsigned int ms)
{
	wait_for_completion_interruptible_timeout(bell, msecs_to_jiffies(ms));
	reinit_completion(bell);
}

void carisma_helper_delayed_work_init(struct delayed_work *work, void (*fn)(struct work_struct *))
{
	INIT_DELAYED_WORK(work, fn);
}

/* Queue the work, or have it run sooner if it would have to wait longer. */
bool carisma_helper_delayed_work_queue(struct delayed_work *work, unsigned int ms)
{
	unsigned long delay = msecs_to_jiffies(ms);

	if (timer_pending(&work->timer) &&
	    time_before(jiffies + delay, READ_ONCE(work->timer.expires)))
		return mod_delayed_work(system_percpu_wq, work, delay);
	return schedule_delayed_work(work, delay);
}

/* Queue the work, or have it run sooner than it would have. */
bool carisma_helper_delayed_work_hurry(struct delayed_work *work)
{
	return mod_delayed_work(system_percpu_wq, work, 0);
}
