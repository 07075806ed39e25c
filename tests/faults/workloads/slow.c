/* A server on 127.0.0.1:PORT that listens with a short queue and serves one connection every PAUSE microseconds.
 * usage: slow PORT BACKLOG PAUSE_US */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (argc < 4)
        return 2;
    at.sin_port = htons(atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, atoi(argv[2])))
        return 1;
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        usleep(atol(argv[3]));
        if (peer >= 0 && write(peer, "ok\n", 3) >= 0)
            close(peer);
    }
}
