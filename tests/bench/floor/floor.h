/* What the floor programs share: the line protocol with the bench and how they give up. */
#ifndef FLOOR_H
#define FLOOR_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *operation, const char *path)
{
    fprintf(stderr, "floor: %s %s: %s\n", operation, path ? path : "", strerror(errno));
    _exit(125);
}

static inline unsigned long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
}

static inline void answer(unsigned long long value)
{
    printf("%llu\n", value);
    fflush(stdout);
}

#endif
