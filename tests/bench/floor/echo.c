/*
 * The bare echo: 64 bytes there and back over one stream socket, epoll at both ends as an event loop would do it, no
 * framing. What an RPC over the same socket can not beat.
 *
 *   echo server unix:PATH|tcp:PORT     answers a line when it listens, serves one client after another
 *   echo client unix:PATH|tcp:PORT     commands on stdin: `MILLISECONDS`; answers the round trips made in that time
 */
#define _GNU_SOURCE
#include "floor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MESSAGE 64

static int make_socket(const char *address, int server)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr *any;
    socklen_t length;
    int one = 1, fd;

    if (strncmp(address, "unix:", 5) == 0) {
        snprintf(local.sun_path, sizeof local.sun_path, "%s", address + 5);
        any = (struct sockaddr *)&local;
        length = sizeof local;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    } else {
        inet.sin_port = htons((uint16_t)atoi(address + 4));
        any = (struct sockaddr *)&inet;
        length = sizeof inet;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (fd < 0)
        die("socket", address);
    if (server) {
        if (bind(fd, any, length) < 0 || listen(fd, 8) < 0)
            die("listen", address);
    } else if (connect(fd, any, length) < 0) {
        die("connect", address);
    }
    return fd;
}

static int watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int one = 1, set = epoll_create1(EPOLL_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll", NULL);
    return set;
}

/* Waits for one whole message; 0 at end of file. */
static int receive(int set, int fd, char *buffer)
{
    struct epoll_event event;
    int have = 0;
    while (have < MESSAGE) {
        if (epoll_wait(set, &event, 1, -1) < 0 && errno != EINTR)
            die("epoll", NULL);
        ssize_t n = read(fd, buffer + have, (size_t)(MESSAGE - have));
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return 0;
        if (n > 0)
            have += (int)n;
    }
    return 1;
}

int main(int argc, char **argv)
{
    char buffer[MESSAGE] = {0}, line[64];

    if (argc != 3)
        return 2;
    if (strcmp(argv[1], "server") == 0) {
        int listener = make_socket(argv[2], 1);
        answer(0);
        for (;;) {
            int fd = accept(listener, NULL, NULL), set;
            if (fd < 0)
                die("accept", argv[2]);
            set = watch(fd);
            while (receive(set, fd, buffer) && write(fd, buffer, MESSAGE) == MESSAGE)
                ;
            close(set);
            close(fd);
        }
    }
    int fd = make_socket(argv[2], 0), set = watch(fd);
    answer(0);
    while (fgets(line, sizeof line, stdin)) {
        unsigned long long end = now_ns() + strtoull(line, NULL, 10) * 1000000ull, count = 0;
        while (now_ns() < end) {
            if (write(fd, buffer, MESSAGE) != MESSAGE || !receive(set, fd, buffer))
                die("exchange with", argv[2]);
            count++;
        }
        answer(count);
    }
    return 0;
}
