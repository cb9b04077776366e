/*
 * Holds N bare processes, each in pid, mount, uts, ipc and cgroup namespaces of its own and with nothing else: what an
 * idle container can not go below. The bench subtracts it from what a container of the product takes.
 *
 *   hold N PROGRAM
 *
 * Answers a line when all are up; ends them and itself at end of file on stdin.
 */
#define _GNU_SOURCE
#include "floor.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int count = atoi(argv[1]);
    pid_t *pids = calloc((size_t)count, sizeof *pids);
    char byte;

    for (int i = 0; i < count; i++) {
        struct clone_args args = {
            .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP,
            .exit_signal = SIGCHLD,
        };
        pids[i] = (pid_t)syscall(SYS_clone3, &args, sizeof args);
        if (pids[i] < 0)
            die("clone3", argv[2]);
        if (pids[i] == 0) {
            char *words[] = {argv[2], NULL}, *none[] = {NULL};
            execve(argv[2], words, none);
            die("exec", argv[2]);
        }
    }
    usleep(200000); /* the last ones are still in exec */
    answer((unsigned long long)count);
    while (read(0, &byte, 1) > 0)
        ;
    for (int i = 0; i < count; i++)
        kill(pids[i], SIGKILL);
    while (wait(NULL) > 0)
        ;
    return 0;
}
