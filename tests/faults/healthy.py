"""Hosts with nothing wrong: at rest, and under work that is within what they have.

None asks for more than the CPUs there are, but at the least priority, which gives way: a load that starves others
would not be harmless.
"""

from __future__ import annotations

from tests.faults import kernel
from tests.faults.scenario import CPUS, Injected, compiler, scenario, tool
from tests.faults.stage import Stage

HEALTHY = Injected(())

MODULE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
{functions}
int main(void) {{ return (int)f0(7); }}
"""
FUNCTION = """
static double f{n}(double x) {{
    double table[64];
    for (int i = 0; i < 64; i++) table[i] = x * i + {n};
    for (int i = 1; i < 64; i++) if (table[i] > table[i - 1] * {n}.5) x += table[i] / (i + 1); else x -= table[i];
    return x;
}}
"""


@scenario("healthy/idle")
def idle(stage: Stage) -> Injected:
    """Nothing is injected."""
    return HEALTHY


def compile_loop(stage: Stage, jobs: int) -> None:
    """Compile forty modules again and again, `jobs` at a time."""
    sources = stage.folder / "src"
    sources.mkdir()
    text = MODULE.format(functions="".join(FUNCTION.format(n=n) for n in range(150)))
    for number in range(40):
        (sources / f"module{number}.c").write_text(text)
    gcc = "gcc -O2 -w -c -o {}.o {}"
    stage.spawn("/bin/sh", "-c", f"cd {sources}; while :; do ls *.c | xargs -P {jobs} -I{{}} {gcc}; done")
    stage.wait_until(lambda: any(sources.glob("*.o")), "the first module is compiled")


@scenario("healthy/compile", needs=(compiler,))
def compile_spare(stage: Stage) -> Injected:
    """A build uses all CPUs but one."""
    compile_loop(stage, max(1, CPUS - 1))
    return HEALTHY


@scenario("healthy/batch", needs=(compiler,))
def batch(stage: Stage) -> Injected:
    """A computation of least priority uses what nobody else wants."""
    program = stage.spawn(stage.compiled("spin.c", "render"), str(CPUS), nice=19)
    stage.wait_until(lambda: kernel.cpu_s(program.pid) > 0.5, "it computes")
    return HEALTHY


@scenario("healthy/backup", needs=(tool("tar", "gzip"),))
def backup(stage: Stage) -> Injected:
    """A backup reads many files, packs them and writes one large file."""
    run_backup(stage)
    return HEALTHY


def run_backup(stage: Stage) -> None:
    """tar and gzip of the system's documentation and libraries, again and again."""
    archive = stage.folder / "backup.tgz"
    stage.spawn(
        "/bin/sh", "-c", f"while :; do tar -cf - /usr/share /usr/include 2>/dev/null | gzip -1 > {archive}; done"
    )
    stage.wait_until(lambda: archive.exists() and archive.stat().st_size > 1 << 20, "the first megabyte is written")


@scenario("healthy/web")
def web(stage: Stage) -> Injected:
    """A web server answers clients and keeps up."""
    port = stage.free_port()
    server = stage.spawn(*stage.script("web.py", "shop.py"), str(port), "3000")
    stage.spawn(*stage.script("ask.py", "gateway.py"), "127.0.0.1", str(port), "4", "0.02")
    stage.wait_until(lambda: kernel.rate(lambda: kernel.cpu_s(server.pid)) > 0.02, "it answers")
    return HEALTHY


@scenario("healthy/pool", needs=(compiler,))
def pool(stage: Stage) -> Injected:
    """Forty threads wait for work, of which there is little."""
    program = stage.spawn(stage.compiled("pool.c", "mailer"), "40", "20000")
    stage.wait_until(lambda: len(kernel.threads(program.pid)) == 41, "the threads are there")
    return HEALTHY


@scenario("healthy/heap")
def heap(stage: Stage) -> Injected:
    """A program's memory goes up and down like a collected heap, with a period of three seconds."""
    program = stage.spawn(*stage.script("heap.py", "reports.py"), "120", "40")
    stage.wait_until(lambda: kernel.anon_bytes(program.pid) > 80 << 20, "it has taken memory")
    return HEALTHY
