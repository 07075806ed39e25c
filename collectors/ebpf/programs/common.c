// Shared by all subjects. The loader defines, from what the running kernel offers:
//   TP_<category>__<event>      the tracepoint exists (tracefs)
//   FIELD_<event>__<field>      its format has this field
//   OFF_<NAME>, MASK_<NAME>     byte offset of a kernel structure's member, mask of a bit-field (BTF)
//   ARGS_<event>                number of arguments of a raw tracepoint (BTF)
// A subject with hot tracepoints counts, by CPU, what its programs have seen in <subject>_events: user space bounds
// their cost from it. Nothing here uses a structure of the headers: they may belong to another kernel version.

static __always_inline u32 current_tgid(void) { return bpf_get_current_pid_tgid() >> 32; }

static const int FIRST = 0; // the key of a map with one entry

#define add(target, amount) __sync_fetch_and_add(&(target), (amount))

// Reads a member of a kernel structure at an offset taken from BTF.
#define read_member(destination, base, offset) \
    bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))

struct total { u64 ns; u64 count; };
