/* A pool of idle threads that wait for work on a condition; one job now and then.  usage: pool THREADS PAUSE_US */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static int jobs;

static void *work(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&gate);
        while (!jobs)
            pthread_cond_wait(&some, &gate);
        jobs--;
        pthread_mutex_unlock(&gate);
        for (volatile int i = 0; i < 200000; i++)
            ;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    for (int i = 0; i < atoi(argv[1]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, NULL))
            return 1;
    }
    for (;;) {
        usleep(atol(argv[2]));
        pthread_mutex_lock(&gate);
        jobs++;
        pthread_cond_signal(&some);
        pthread_mutex_unlock(&gate);
    }
}
