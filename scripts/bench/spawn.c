/* Measures the life of a command, from before its fork to its reaping: spawn run -n TIMES [-c CPU] [-l LIFE] LIBRARY CMD...
 * LIBRARY is preloaded into the command alone; "-" is none. The command's output goes to /dev/null. Every run must end
 * with status 0. */
#include "common.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

__attribute__((noreturn)) static void become(const char *library, char **command)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere < 0 || dup2(nowhere, STDOUT_FILENO) < 0)
        die("/dev/null");
    if (strcmp(library, "-") != 0 && setenv("LD_PRELOAD", library, 1) != 0)
        die("LD_PRELOAD");
    signal(SIGPIPE, SIG_DFL);
    execvp(command[0], command);
    die("%s", command[0]);
}

static int ascending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
    struct options options;
    int next = parse(argc, argv, &options);
    if (next + 2 > argc) {
        fprintf(stderr, "a library and a command are missing\n");
        return 2;
    }
    double *wall = calloc(options.count, sizeof *wall);
    if (wall == NULL)
        die("memory");
    for (size_t i = 0; i < options.count; i++) {
        uint64_t start = now();
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0)
            become(argv[next], argv + next + 1);
        int status;
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR)
                die("waitpid");
        wall[i] = (double)(now() - start) / NANOSECONDS;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "%s ended with wait status 0x%x\n", argv[next + 1], (unsigned)status);
            return 1;
        }
    }
    qsort(wall, options.count, sizeof *wall, ascending);
    figure("wall_seconds", (wall[(options.count - 1) / 2] + wall[options.count / 2]) / 2);
    return fflush(stdout) == 0 ? 0 : 1;
}
