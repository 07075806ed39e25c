/* Private memory that grows by RATE MB a second up to MAX MB, then stays.  usage: grow RATE_MB MAX_MB [DELAY_S] */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    double rate = atof(argv[1]);
    long max = atol(argv[2]) * 4;
    size_t step = 256 << 10;
    if (argc > 3)
        sleep(atoi(argv[3]));
    for (long i = 0; i < max; i++) {
        char *block = malloc(step);
        if (!block)
            break;
        memset(block, 1 + i % 250, step);
        if (rate > 0)
            usleep(1e6 / (rate * 4));
    }
    for (;;)
        pause();
}
