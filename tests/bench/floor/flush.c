/* What the disk does by itself, one writer, 4 KiB at a time.
 *
 *   flush DIRECTORY     lines on stdin: over|append|stream MILLISECONDS
 *   answers             over, append: flushes a second; stream: kB a second, written in one piece and flushed once
 */
#include <fcntl.h>
#include <limits.h>

#include "floor.h"

#define BLOCK 4096
#define FILE_BYTES (64 << 20)

static char block[1 << 20];

static int opened(const char *directory, const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        die("open", path);
    return fd;
}

static unsigned long long flushes(int fd, unsigned long long ms, int over)
{
    unsigned long long began = now_ns(), count = 0;
    off_t at = 0;
    if (!over && ftruncate(fd, 0) < 0)
        die("truncate", NULL);
    while (now_ns() - began < ms * 1000000ull) {
        if (over && at + BLOCK > FILE_BYTES)
            at = 0;
        if (pwrite(fd, block, BLOCK, at) != BLOCK || fdatasync(fd) < 0)
            die("write and flush", NULL);
        at += BLOCK;
        count++;
    }
    return count * 1000000000ull / (now_ns() - began);
}

static unsigned long long stream(int fd, unsigned long long megabytes)
{
    unsigned long long began = now_ns();
    for (off_t at = 0; at < (off_t)(megabytes << 20); at += sizeof block)
        if (pwrite(fd, block, sizeof block, at) != sizeof block)
            die("write", NULL);
    if (fdatasync(fd) < 0)
        die("flush", NULL);
    unsigned long long rate = (megabytes << 10) * 1000000000ull / (now_ns() - began);
    if (ftruncate(fd, 0) < 0)
        die("truncate", NULL);
    return rate;
}

int main(int argc, char **argv)
{
    char what[16];
    unsigned long long value;
    if (argc != 2)
        die("usage: flush DIRECTORY", NULL);
    int over = opened(argv[1], "over"), append = opened(argv[1], "append"), large = opened(argv[1], "stream");
    memset(block, 7, sizeof block);
    for (off_t at = 0; at < FILE_BYTES; at += sizeof block)
        if (pwrite(over, block, sizeof block, at) != sizeof block)
            die("fill", NULL);
    if (fsync(over) < 0)
        die("fsync", NULL);
    answer(0);
    while (scanf("%15s %llu", what, &value) == 2) {
        if (strcmp(what, "stream") == 0)
            answer(stream(large, value));
        else
            answer(flushes(what[0] == 'o' ? over : append, value, what[0] == 'o'));
    }
    return 0;
}
