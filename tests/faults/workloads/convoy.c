/* N threads that all need one mutex, held for HOLD microseconds computing or sleeping.
 * usage: convoy THREADS HOLD_US compute|sleep */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static long hold_us;
static int sleeps;

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void *work(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&gate);
        if (sleeps)
            usleep(hold_us);
        else
            for (long end = now_us() + hold_us; now_us() < end;)
                ;
        pthread_mutex_unlock(&gate);
        usleep(50); /* the little work outside the lock: without it the unlocker takes the lock again at once */
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    hold_us = atol(argv[2]);
    sleeps = !strcmp(argv[3], "sleep");
    for (int i = 1; i < atoi(argv[1]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL))
            return 1;
    }
    work(NULL);
}
