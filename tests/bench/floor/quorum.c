/* The least that a durable quorum write costs: a leader, two followers, each a process with a preallocated file. An entry
 * is acknowledged when the leader and one follower have it on disk; all that wait go together in one write and one
 * fdatasync. No ballots, no checksums, no encoding, no recovery.
 *
 *   quorum DIRECTORY        lines on stdin: WRITERS MILLISECONDS
 *   answers                 entries, microseconds taken, and of one entry in nanoseconds: median, p99, longest
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>

#include "floor.h"

#define ENTRY 1024
#define FILE_BYTES (64 << 20)
#define WRITERS_MAX 1024

struct batch { unsigned long long number; unsigned long long bytes; };

static char data[WRITERS_MAX * ENTRY];

static int preallocated(const char *directory, int number)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/floor-%d", directory, number);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        die("open", path);
    for (off_t at = 0; at < FILE_BYTES; at += sizeof data)
        if (pwrite(fd, data, sizeof data, at) != sizeof data)
            die("fill", path);
    if (fsync(fd) < 0)
        die("fsync", path);
    return fd;
}

static void put(int fd, size_t bytes, off_t *at)
{
    if (*at + (off_t)bytes > FILE_BYTES)
        *at = 0;
    if (pwrite(fd, data, bytes, *at) != (ssize_t)bytes)
        die("pwrite", NULL);
    *at += bytes;
}

static void sync_data(int fd)
{
    if (fdatasync(fd) < 0)
        die("fdatasync", NULL);
}

static int get(int fd, void *to, size_t bytes)
{
    for (size_t have = 0; have < bytes;) {
        ssize_t count = read(fd, (char *)to + have, bytes - have);
        if (count <= 0)
            return 0;
        have += count;
    }
    return 1;
}

static void send_all(int fd, const void *from, size_t bytes, int flags)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t count = send(fd, (const char *)from + done, bytes - done, MSG_NOSIGNAL | flags);
        if (count < 0)
            die("send", NULL);
        done += count;
    }
}

static void follow(int link, int file)
{
    struct batch batch;
    off_t at = 0;
    while (get(link, &batch, sizeof batch)) {
        int more = 0;
        if (!get(link, data, batch.bytes))
            return;
        put(file, batch.bytes, &at);
        /* What has arrived meanwhile shares the flush. */
        if (ioctl(link, FIONREAD, &more) == 0 && more > (int)sizeof batch)
            continue;
        sync_data(file);
        /* The leader has its quorum and may be gone. */
        if (send(link, &batch.number, sizeof batch.number, MSG_NOSIGNAL) < 0)
            return;
    }
}

static int connected(int listener, const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    (void)listener;
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        die("connect", NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int by_size(const void *a, const void *b)
{
    unsigned long long x = *(const unsigned long long *)a, y = *(const unsigned long long *)b;
    return x < y ? -1 : x > y;
}

static void lead(int file, struct pollfd links[2], int writers, unsigned long long ms)
{
    static unsigned long long took[1 << 20], number;
    static off_t at;
    size_t rounds = 0;
    unsigned long long began = now_ns(), end = began + ms * 1000000ull, last = began;
    while (last < end && rounds < sizeof took / sizeof *took) {
        struct batch batch = { ++number, (unsigned long long)writers * ENTRY };
        for (int i = 0; i < 2; i++) {
            send_all(links[i].fd, &batch, sizeof batch, MSG_MORE);
            send_all(links[i].fd, data, batch.bytes, 0);
        }
        put(file, batch.bytes, &at);
        sync_data(file);
        for (unsigned long long durable = 0; durable < number;) {
            if (poll(links, 2, -1) < 0)
                die("poll", NULL);
            for (int i = 0; i < 2; i++) {
                unsigned long long told;
                if (!(links[i].revents & POLLIN))
                    continue;
                if (!get(links[i].fd, &told, sizeof told))
                    die("a follower is gone", NULL);
                durable = told > durable ? told : durable;
            }
        }
        unsigned long long now = now_ns();
        took[rounds++] = now - last;
        last = now;
    }
    qsort(took, rounds, sizeof *took, by_size);
    printf("%zu %llu %llu %llu %llu\n", rounds * writers, (last - began) / 1000, took[rounds / 2],
           took[rounds * 99 / 100], took[rounds - 1]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (argc != 2)
        die("usage: quorum DIRECTORY", NULL);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 2) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        die("listen", NULL);
    struct pollfd links[2];
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child < 0)
            die("fork", NULL);
        if (child == 0) {
            /* Not waiting at a socket that nobody closes, should the leader be killed. */
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            int file = preallocated(argv[1], i + 1), link = connected(listener, &address);
            close(listener);
            follow(link, file);
            _exit(0);
        }
    }
    int file = preallocated(argv[1], 0);
    for (int i = 0; i < 2; i++) {
        links[i] = (struct pollfd){ .fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), .events = POLLIN };
        if (links[i].fd < 0)
            die("accept", NULL);
        setsockopt(links[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    answer(0);
    int writers;
    unsigned long long ms;
    while (scanf("%d %llu", &writers, &ms) == 2 && writers > 0 && writers <= WRITERS_MAX)
        lead(file, links, writers, ms);
    close(links[0].fd);
    close(links[1].fd);
    while (wait(NULL) > 0)
        ;
    return 0;
}
