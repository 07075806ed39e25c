"""How the kernel begins each kind of report. Sources: the printk calls of kernel 4.19 to 6.18.

A more specific line may follow a general one (``kernel BUG at`` after ``list_del corruption``): the one with the
higher `rank` gives the report its kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Opening:
    """One line that opens a report. Named groups of `pattern` become details of the report.

    `alone` opens a report even where one without a stack stands open: hung tasks come one after the other.
    """

    kind: str
    rank: int
    pattern: re.Pattern[str]
    alone: bool = False


def _opening(kind: str, rank: int, pattern: str, alone: bool = False) -> Opening:
    return Opening(kind, rank, re.compile(pattern), alone)


_AT = r"(?:address:? |at (?:virtual address )?)(?:0x)?(?P<address>[0-9a-f]{1,16})"

OPENINGS = (
    _opening("sysrq", 9, r"sysrq: (?:SysRq : )?Trigger a crash|SysRq : Trigger a crash|sysrq triggered crash"),
    # accesses that a checker caught: the most exact word on what happened
    _opening(
        "use_after_free",
        8,
        r"BUG: K(?:ASAN|FENCE): (?:slab-|vmalloc-)?(?:use-after-free|double-free|invalid-free|invalid free|double-free or "
        r"invalid-free)(?: read| write)? in (?P<in>.+)",
    ),
    _opening(
        "out_of_bounds",
        8,
        r"BUG: K(?:ASAN|FENCE): \S*(?:out-of-bounds|memory corruption)(?: read| write)? in (?P<in>.+)|"
        r"BUG: KFENCE: memory corruption in (?P<in_>.+)|"
        r"UBSAN: array-index-out-of-bounds in (?P<place>\S+)|usercopy: Kernel memory (?:exposure|overwrite) attempt|"
        r"(?:memcpy|memmove|memset|str\w+): detected (?:field-spanning write|buffer overflow)|detected buffer overflow in \w+",
    ),
    _opening("null_pointer", 8, r"BUG: KASAN: null-ptr-deref in (?P<in>.+)|KASAN: null-ptr-deref in range"),
    _opening("bad_pointer", 6, r"BUG: KASAN: (?:wild|user)-memory-access in (?P<in>.+)|CFI failure at (?P<in_>.+)"),
    _opening(
        "list_corruption",
        8,
        r"(?:list|hlist|plist)_(?:add|del) (?:corruption|double add)|list_\w+ (?:corruption|attempted on NULL)",
    ),
    _opening("list_corruption", 7, r"(?:BUG )?at (?:\S*/)?lib/(?:list_debug|plist)\.c:\d+"),
    _opening(
        "refcount",
        8,
        r"refcount_t: (?P<how>underflow|overflow|saturated|addition on 0|decrement hit 0|hit zero|leak)[^\n]*|"
        r"percpu ref \(.*\) <= 0|kref_(?:get|put): ",
    ),
    _opening("refcount", 7, r"WARNING: .* at (?:\S*/)?(?:lib/refcount\.c|include/linux/kref\.h):\d+"),
    _opening(
        "slab_corruption",
        8,
        r"BUG (?P<cache>[\w.:-]{1,64})(?: \((?:Not tainted|Tainted:)[^)]*\))?: (?P<how>.+)|"
        r"slab: double free detected in cache '(?P<cache_>[^']+)'|cache_from_obj: Wrong slab cache|"
        r"kernel BUG at (?:\S*/)?mm/sl[aou]b\w*\.c|Slab corruption|kmem_cache_destroy (?P<cache__>\S+): Slab cache still",
    ),
    _opening("slab_corruption", 6, r"BUG: Bad (?:page (?:state|map|cache)|rss-counter)|BUG: non-zero pgtables_bytes"),
    _opening(
        "stack_overflow",
        8,
        r"BUG: (?:\w+ )?stack guard page was hit|kernel stack overflow|Insufficient stack space to handle exception|"
        r"corrupted stack end detected|Thread overran stack|stack overflow detected",
    ),
    _opening("stack_protector", 8, r"stack-protector: Kernel stack is corrupted in: (?P<in>.+)"),
    _opening("double_fault", 7, r"PANIC: double fault|\bdouble fault: [0-9a-f]{4} \["),
    _opening(
        "hung_task",
        7,
        r"INFO: task (?P<comm>.{1,64}?):(?P<pid>\d{1,9}) blocked (?:in I/O wait )?for more than (?P<seconds>\d{1,9}) seconds",
        alone=True,
    ),
    _opening(
        "soft_lockup",
        7,
        r"BUG: soft lockup - CPU#(?P<cpu>\d{1,5}) stuck for (?P<seconds>\d{1,9})s!(?: \[(?P<comm>.{1,64}):(?P<pid>\d{1,9})\])?",
        alone=True,
    ),
    _opening("soft_lockup", 6, r"BUG: spinlock (?:lockup suspected|recursion|cpu recursion|wrong owner)"),
    _opening(
        "hard_lockup", 7, r"Watchdog detected hard LOCKUP on cpu (?P<cpu>\d{1,5})|hard LOCKUP|Hard LOCKUP", alone=True
    ),
    _opening(
        "rcu_stall",
        7,
        r"INFO: rcu_\w+ (?:self-)?detected (?:expedited )?stalls?|rcu_\w+ kthread (?:starved|timer wakeup)",
        alone=True,
    ),
    _opening(
        "oom",
        7,
        r"(?P<comm>.{1,64}?) invoked oom-killer: gfp_mask=(?P<gfp>\S+?), order=(?P<order>-?\d+)",
        alone=True,
    ),
    _opening("oom", 5, r"not syncing: (?:Out of memory|System is deadlocked on memory|Out of memory and no killable)"),
    _opening(
        "lock_order",
        7,
        r"WARNING: possible (?:circular locking dependency|recursive locking|irq lock inversion)|rt_?mutex deadlock|"
        r"WARNING: bad unlock balance",
    ),
    _opening(
        "null_pointer",
        6,
        rf"(?i:unable to handle (?:kernel )?NULL pointer dereference(?:,? {_AT})?)|"
        r"BUG: kernel NULL pointer dereference, address: (?P<address_>[0-9a-f]{1,16})",
    ),
    _opening(
        "bad_pointer",
        5,
        r"(?i:unable to handle (?:page fault|(?:kernel )?paging request|kernel [\w -]+?)) (?:for |at )"
        r"(?:virtual )?address:? (?P<address>[0-9a-f]{1,16})|"
        r"BUG: unable to handle kernel paging request at (?P<address_>[0-9a-f]{1,16})|"
        r"Bad page fault|kernel tried to execute",
    ),
    _opening(
        "general_protection",
        5,
        r"general protection fault(?:, \w+ for (?:non-canonical )?address 0x(?P<address>[0-9a-f]{1,16}))?[^\n]*\[#\d+\]|"
        r"stack segment: [0-9a-f]{4} \[#",
    ),
    _opening("divide", 5, r"divide error: [0-9a-f]{4} \[#|Internal error: Division by zero"),
    _opening(
        "machine_check",
        6,
        r"not syncing: (?:Fatal )?(?:Machine check|machine check|hardware error)|Fatal hardware error",
    ),
    _opening("requested", 3, r"NMI received for unknown reason|panic_on_unrecovered_nmi|NMI: Not continuing"),
    _opening("bug", 4, r"[kK]ernel BUG at (?P<place>\S+?)!?$|Internal error: Oops - BUG"),
    _opening("bug", 3, r"BUG: scheduling while atomic|BUG: sleeping function called from invalid context"),
    _opening("invalid_opcode", 2, r"invalid opcode: [0-9a-f]{4} \[#|Internal error: Oops - undefined instruction"),
    _opening(
        "warning",
        1,
        r"WARNING: CPU: \d+ PID: \d+ at (?P<place>\S+)(?: (?P<in>\S+.*))?|WARNING: (?P<place_>\S+:\d+) at (?P<in_>\S+.*)",
    ),
    _opening("unknown", 0, r"\bOops: [0-9a-f]{4,16} \[#\d+\]|Internal error: .{1,80} \[#\d+\]"),
    _opening("unknown", 0, r"Kernel panic - not syncing: .*"),
)

REACH = 512  # characters of a line in which a report may open

PANIC = re.compile(r"Kernel panic - not syncing: ?(.*)")
# Panics that only say that a report came before, with the kinds it may have been (none named: any).
_FOLLOWS = tuple(
    (re.compile(pattern, re.IGNORECASE), frozenset(kinds.split()))
    for pattern, kinds in (
        (r"hung_task: ", "hung_task"),
        (r"softlockup: ", "soft_lockup"),
        (r"hard lockup", "hard_lockup"),
        (r"RCU Stall", "rcu_stall"),
        (r"Out of memory|System is deadlocked", "oom"),
        (r"sysrq triggered", "sysrq"),
        (r"kernel stack overflow|corrupted stack end", "stack_overflow double_fault"),
        (r"stack-protector", "stack_protector"),
        (
            r"Fatal exception|(?:\w+: )?panic_on_|Attempted to kill |Aiee, killing|Oops|BUG!|NMI|double fault|bad exception",
            "",
        ),
    )
)


def follows(message: str, kind: str) -> bool:
    """Whether a panic message says that a report of this kind led to it.

    >>> follows("hung_task: blocked tasks", "hung_task"), follows("my driver gave up", "warning")
    (True, False)
    """
    return any(pattern.match(message) and (not kinds or kind in kinds) for pattern, kinds in _FOLLOWS)


# One line that opens any of them, to pass over the rest quickly.
ANY = re.compile(
    r"BUG|WARNING|Oops|Internal error|INFO: |nable to handle|general protection|panic|PANIC|[Ss]ys[Rr]q|corruption|double add|"
    r"refcount_t|percpu ref|LOCKUP|kthread starved|oom-killer|double fault|divide error|invalid opcode|stack segment|UBSAN|"
    r"usercopy|detected |kernel stack overflow|Insufficient stack|KASAN|CFI failure|slab: |cache_from_obj|Slab corruption|"
    r"kmem_cache_destroy|NMI|hardware error|Bad page fault|tried to execute|kref_|list_\w+ attempted|deadlock|overran stack"
)
