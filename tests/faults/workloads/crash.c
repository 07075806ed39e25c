/* Works for a moment, then dies.  usage: crash segv|exit MILLISECONDS */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    usleep(atol(argv[2]) * 1000);
    if (!strcmp(argv[1], "segv"))
        raise(SIGSEGV);
    return 1;
}
