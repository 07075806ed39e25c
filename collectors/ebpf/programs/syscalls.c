// System calls that fail, by process and error.
// Left out in the kernel, because they are how programs ask and wait: ENOENT ESRCH EINTR ENXIO ECHILD EAGAIN EEXIST
// ENOTTY ERANGE ENODATA EOPNOTSUPP ETIMEDOUT EALREADY EINPROGRESS, and the restart codes above 511.

struct failure { u32 tgid; u32 error; };
BPF_PERCPU_ARRAY(syscalls_events, u64, 1);
BPF_HASH(syscall_failures, struct failure, u64, 4096);

int raw__sys_exit(struct bpf_raw_tracepoint_args *ctx) {
    syscalls_events.increment(FIRST);
    s64 result = ctx->args[1];
    if (result >= 0 || result < -133)
        return 0;
    u32 error = -result;
    switch (error) {
    case 2: case 3: case 4: case 6: case 10: case 11: case 17: case 25: case 34: case 61: case 95: case 110:
    case 114: case 115:
        return 0;
    }
    struct failure key = {.tgid = current_tgid(), .error = error};
    u64 zero = 0, *count = syscall_failures.lookup_or_try_init(&key, &zero);
    if (count)
        add(*count, 1);
    return 0;
}
