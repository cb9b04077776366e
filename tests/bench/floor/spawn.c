/*
 * Starts foreign programs and times them from posix_spawn to reaped: small and always the same, so that the size of
 * the caller is not part of anybody's figure. Also the yardstick `spawn` when the program is a bare one.
 *
 *   spawn [--without-unified]
 *
 * crun 1.8 refuses hosts with v1 controllers and a v2 tree beside them ("hybrid mode"). With --without-unified this
 * program first moves, once and outside any timing, to a mount namespace of its own without the v2 tree.
 *
 * Commands on stdin, words separated by tabs, "@" in a word replaced by a number that never repeats; one answer line
 * in nanoseconds each:
 *   one WORD...        one process
 *   many N K WORD...   N processes, K at a time
 */
#define _GNU_SOURCE
#include "floor.h"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define WORDS_MAX 128

extern char **environ;

static char *words[WORDS_MAX];
static int words_length;
static posix_spawn_file_actions_t actions;

static void start(void)
{
    static unsigned sequence;
    static char expanded[WORDS_MAX][512];
    char *argv[WORDS_MAX + 1];
    pid_t pid;

    sequence++;
    for (int i = 0; i < words_length; i++) {
        char *at = strchr(words[i], '@');
        argv[i] = words[i];
        if (at) {
            snprintf(expanded[i], sizeof expanded[i], "%.*s%d-%u%s", (int)(at - words[i]), words[i], getpid(), sequence,
                     at + 1);
            argv[i] = expanded[i];
        }
    }
    argv[words_length] = NULL;
    errno = posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);
    if (errno)
        die("spawn", argv[0]);
}

static void reap(void)
{
    int status;
    if (wait(&status) < 0)
        die("wait for", words[0]);
    if (status != 0) {
        fprintf(stderr, "floor: %s ended with wait status %#x\n", words[0], status);
        _exit(125);
    }
}

static void run(int count, int at_a_time)
{
    int started = 0, running = 0;
    while (started < count || running > 0) {
        if (started < count && running < at_a_time) {
            start();
            started++;
            running++;
        } else {
            reap();
            running--;
        }
    }
}

int main(int argc, char **argv)
{
    static char line[16384];

    if (argc == 2 && strcmp(argv[1], "--without-unified") == 0) {
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
            die("unshare", "mount namespace");
        if (umount2("/sys/fs/cgroup/unified", MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
            die("unmount", "/sys/fs/cgroup/unified");
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    answer(0);

    while (fgets(line, sizeof line, stdin)) {
        char *word = strtok(line, "\t\n");
        int count = 1, at_a_time = 1;
        if (word && strcmp(word, "many") == 0) {
            count = atoi(strtok(NULL, "\t\n"));
            at_a_time = atoi(strtok(NULL, "\t\n"));
        } else if (!word || strcmp(word, "one") != 0) {
            return 2;
        }
        words_length = 0;
        while (words_length < WORDS_MAX && (word = strtok(NULL, "\t\n")))
            words[words_length++] = word;
        if (words_length == 0)
            return 2;
        unsigned long long begin = now_ns();
        run(count, at_a_time);
        answer(now_ns() - begin);
    }
    return 0;
}
