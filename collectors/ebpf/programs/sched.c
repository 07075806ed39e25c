// Waits for a CPU and time off the CPU, by process, from one raw tracepoint.
//
// sched_switch alone is hooked. The time of the wake-up is not traced: the kernel keeps it in
// task_struct.sched_info.last_queued, on the run queue's own clock (rq.clock), so wake-ups cost nothing.
// A wait shows when it ends: a task that never runs again (a deadlock) is not seen here.

enum reason { PREEMPTED, SLEEP, UNINTERRUPTIBLE, IO, FUTEX, RUNQUEUE, REASONS };

struct away { u64 task; u64 since; u32 tgid; u32 reason; };
struct waits { u64 ns[REASONS]; u64 count[REASONS]; };

// Who left its CPU when: direct-mapped by the task's address, a collision loses one wait.
BPF_PERCPU_ARRAY(sched_events, u64, 1);
BPF_ARRAY(sched_away, struct away, 16384);
BPF_HASH(sched_waits, u32, struct waits, 4096);
BPF_PERCPU_ARRAY(sched_histogram, u64, 192);
BPF_PERCPU_ARRAY(sched_runqueue, u64, 1);
BPF_ARRAY(sched_opened, u64, 1); // when tracing (again) began: who left before may have come and gone unseen

static __always_inline struct away *away_of(u64 task) {
    int index = (task * 0x9E3779B97F4A7C15ULL) >> 50;
    return sched_away.lookup(&index);
}

// Log-linear: four buckets to an octave of nanoseconds, from 64 ns; see histogram.py.
static __always_inline int bucket_of(u64 ns) {
    u64 value = ns >> 4;
    if (value < 4)
        return value;
    u64 power = bpf_log2l(value) - 1; // bpf_log2l counts from 1
    u64 bucket = (power - 1) * 4 + ((value >> (power - 2)) & 3);
    return bucket < 192 ? bucket : 191;
}

static __always_inline u32 reason_of(struct bpf_raw_tracepoint_args *ctx, u64 task) {
    u64 state;
#if ARGS_sched_switch >= 4
    state = (u32)ctx->args[3];
#else
    u32 field = 0;
    read_member(field, task, OFF_TASK_STATE);
    state = field;
#endif
    if (ctx->args[0] || !state)
        return PREEMPTED;
    if ((state & 0x2) && !(state & 0x400)) { // TASK_UNINTERRUPTIBLE, but not TASK_NOLOAD (an idle kernel thread)
#ifdef MASK_TASK_IOWAIT
        u8 flags = 0;
        read_member(flags, task, OFF_TASK_IOWAIT);
        if (flags & MASK_TASK_IOWAIT)
            return IO;
#endif
        return UNINTERRUPTIBLE;
    }
#ifdef OFF_REGS_SYSCALL
    u64 regs = bpf_task_pt_regs((void *)bpf_get_current_task_btf());
    u64 number = 0;
    read_member(number, regs, OFF_REGS_SYSCALL);
    if (number == NR_FUTEX || number == NR_FUTEX_WAITV || number == NR_FUTEX_WAIT)
        return FUTEX;
#endif
    return SLEEP;
}

static __always_inline u64 runqueue_wait(u64 task) {
#if defined(OFF_TASK_LAST_QUEUED) && defined(OFF_TASK_CFS_RQ)
    u64 queued = 0, clock = 0;
    read_member(queued, task, OFF_TASK_LAST_QUEUED);
    if (!queued)
        return 0;
    int zero = 0;
    u64 *queue = sched_runqueue.lookup(&zero); // this CPU's struct rq: found once, it never moves
    if (!queue)
        return 0;
    if (!*queue) {
        u64 fair = 0;
        read_member(fair, task, OFF_TASK_CFS_RQ);
        read_member(*queue, fair, OFF_CFS_RQ_RQ);
    }
    read_member(clock, *queue, OFF_RQ_CLOCK);
    return clock > queued ? clock - queued : 1; // a task that preempts at once is queued and runs at one clock
#else
    return 0;
#endif
}

int raw__sched_switch(struct bpf_raw_tracepoint_args *ctx) {
    u64 now = bpf_ktime_get_ns(), previous = ctx->args[1], next = ctx->args[2];
    sched_events.increment(FIRST);
    u32 tgid = current_tgid();
    if (tgid) { // the idle task is process 0
        struct away *left = away_of(previous);
        if (left) {
            left->task = previous;
            left->since = now;
            left->tgid = tgid;
            left->reason = reason_of(ctx, previous);
        }
    }
    struct away *back = away_of(next);
    if (!back)
        return 0;
    u64 waited = runqueue_wait(next), away = 0;
    u32 reason = REASONS;
    tgid = 0;
    int zero_key = 0;
    u64 *opened = sched_opened.lookup(&zero_key);
    if (opened && back->task == next && back->since >= *opened) {
        tgid = back->tgid;
        reason = back->reason;
        away = now > back->since ? now - back->since : 0;
        back->task = 0;
#if !defined(OFF_TASK_LAST_QUEUED) || !defined(OFF_TASK_CFS_RQ)
        waited = reason == PREEMPTED ? away : 0;
#endif
        if (reason != PREEMPTED)
            away = away > waited ? away - waited : 0;
    } else if (waited) {
        read_member(tgid, next, OFF_TASK_TGID);
    }
    if (!tgid)
        return 0;
    struct waits zero = {}, *waits = sched_waits.lookup_or_try_init(&tgid, &zero);
    if (!waits)
        return 0;
    if (reason < REASONS) {
        add(waits->ns[reason], away);
        add(waits->count[reason], 1);
    }
    if (waited) {
        int bucket = bucket_of(waited);
        u64 *slot = sched_histogram.lookup(&bucket);
        if (slot)
            (*slot)++;
        add(waits->ns[RUNQUEUE], waited);
        add(waits->count[RUNQUEUE], 1);
    }
    return 0;
}
