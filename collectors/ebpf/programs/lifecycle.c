// Tasks created, programs executed, processes ended and how, signals that kill, victims of the OOM killer.
// Counts are per process in maps; what an operator would want to read by name goes through a queue of records,
// which drops (and counts what it dropped) rather than grow.

enum record_kind { EXIT = 1, SIGNAL, OOM };
enum task_count { FORKS, THREADS, EXECS, WHATS };

struct record {
    u64 at;
    u32 kind, pid, other, code;   // other: parent (EXIT), sender (SIGNAL); code: wait status, signal
    u64 amount;                   // EXIT: nanoseconds lived; OOM: anonymous resident bytes
    char comm[16], other_comm[16];
};
struct tasks { u64 counts[WHATS]; };
struct ended { u32 parent; char comm[16]; u32 status; };
struct endings { u64 count; u64 lived_ns; };

BPF_QUEUE(lifecycle_records, struct record, 512);
BPF_ARRAY(lifecycle_lost, u64, 1);
BPF_HASH(lifecycle_tasks, u32, struct tasks, 2048);
BPF_HASH(lifecycle_endings, struct ended, struct endings, 2048);

static __always_inline void push_record(struct record *record) {
    record->at = bpf_ktime_get_ns();
    if (lifecycle_records.push(record, 0)) {
        int zero = 0;
        u64 *lost = lifecycle_lost.lookup(&zero);
        if (lost)
            add(*lost, 1);
    }
}

static __always_inline void count_task(u32 tgid, int what) {
    struct tasks zero = {}, *tasks = lifecycle_tasks.lookup_or_try_init(&tgid, &zero);
    if (tasks && what < WHATS)
        add(tasks->counts[what], 1);
}

#ifdef TP_task__task_newtask
int tp__task__task_newtask(struct tracepoint__task__task_newtask *args) {
    count_task(current_tgid(), args->clone_flags & 0x10000 ? THREADS : FORKS); // CLONE_THREAD
    return 0;
}
#endif

#ifdef OFF_TASK_REAL_PARENT
// Counted for the parent: a process of its own would be one series for each short-lived command.
int raw__sched_process_exec(struct bpf_raw_tracepoint_args *ctx) {
    u64 parent = 0;
    u32 tgid = 0;
    read_member(parent, ctx->args[0], OFF_TASK_REAL_PARENT);
    read_member(tgid, parent, OFF_TASK_TGID);
    count_task(tgid, EXECS);
    return 0;
}
#endif

#if defined(OFF_TASK_EXIT_CODE) && defined(OFF_TASK_REAL_PARENT)
int raw__sched_process_exit(struct bpf_raw_tracepoint_args *ctx) {
    u64 task = ctx->args[0], id = bpf_get_current_pid_tgid(), parent = 0, started = 0;
    if ((u32)id != id >> 32) // a thread; a process ends with its leader
        return 0;
    struct record record = {.kind = EXIT, .pid = id};
    struct ended key = {};
    read_member(key.status, task, OFF_TASK_EXIT_CODE);
    read_member(parent, task, OFF_TASK_REAL_PARENT);
    read_member(key.parent, parent, OFF_TASK_TGID);
    read_member(started, task, OFF_TASK_START_TIME);
    bpf_get_current_comm(key.comm, sizeof(key.comm));
    record.amount = bpf_ktime_get_ns() - started;
    struct endings zero = {}, *endings = lifecycle_endings.lookup_or_try_init(&key, &zero);
    if (endings) {
        add(endings->count, 1);
        add(endings->lived_ns, record.amount);
    }
    if (key.status) {
        record.other = key.parent;
        record.code = key.status;
        __builtin_memcpy(record.comm, key.comm, 16);
        bpf_probe_read_kernel(record.other_comm, 16, (void *)(parent + OFF_TASK_COMM));
        push_record(&record);
    }
    return 0;
}
#endif

#ifdef TP_signal__signal_generate
int tp__signal__signal_generate(struct tracepoint__signal__signal_generate *args) {
    u32 signal = args->sig;
    // ILL TRAP ABRT BUS FPE KILL SEGV XCPU SYS: nobody sends these to talk
    if (signal > 31 || !((1U << signal) & 0x81000BF0U) || args->result)
        return 0;
    struct record record = {.kind = SIGNAL, .pid = args->pid, .other = current_tgid(), .code = signal};
    __builtin_memcpy(record.comm, args->comm, 16);
    bpf_get_current_comm(record.other_comm, sizeof(record.other_comm));
    push_record(&record);
    return 0;
}
#endif

#ifdef TP_oom__mark_victim
int tp__oom__mark_victim(struct tracepoint__oom__mark_victim *args) {
    struct record record = {.kind = OOM, .pid = args->pid};
#ifdef FIELD_mark_victim__anon_rss
    record.amount = args->anon_rss * 1024;
#endif
#ifdef FIELD_mark_victim__comm
    bpf_probe_read_kernel_str(record.comm, 16, (char *)args + (args->data_loc_comm & 0xFFFF));
#endif
    bpf_get_current_comm(record.other_comm, sizeof(record.other_comm));
    record.other = current_tgid();
    push_record(&record);
    return 0;
}
#endif
