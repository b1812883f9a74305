/* Children that run another program: they inherit what stays open over exec and nothing else, and an exec that fails
 * harms nothing. The program runs itself as the child (argument: the number of a socket). */
#include <dirent.h>
#include <spawn.h>

#include "t.h"

extern char **environ;

/* The highest number that is open and not closed on exec: what a child inherits. */
static int highest_open(void)
{
    int highest = -1;
    DIR *list = opendir("/proc/self/fd");
    for (struct dirent *entry; list && (entry = readdir(list)) != NULL;)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(list) && atoi(entry->d_name) > highest &&
            fcntl(atoi(entry->d_name), F_GETFD) == 0)
            highest = atoi(entry->d_name);
    closedir(list);
    return highest;
}

/* What the new image says of an inherited socket: it is there, as the only one,
 * and alive. */
static int image(const char *argument)
{
    char byte;
    int fd = atoi(argument), highest = highest_open();
    signal(SIGPIPE, SIG_IGN);
    alarm(5);
    bool answers = recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno != EBADF;
    return highest == fd && answers ? 0 : 10;
}

static int status_of(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(int count, char **arguments)
{
    int control;
    char number[16], byte, command[512];

    if (count > 1)
        return image(arguments[1]);
    t_begin();
    t_arm_deadline(T_DEADLINE_SECONDS);
    /* Above all that the program was given. */
    int floor = highest_open() + 1;
    int closed = MUST(t_tcp(SOCK_CLOEXEC)), fd = peer_pair(&control);
    MUST(fcntl(control, F_SETFD, FD_CLOEXEC));
    int udp = MUST(t_udp(SOCK_CLOEXEC));
    int kept = MUST(fcntl(fd, F_DUPFD, floor + 10));
    MUST(fcntl(fd, F_SETFD, FD_CLOEXEC));
    snprintf(number, sizeof number, "%d", kept);
    char *words[] = {arguments[0], number, NULL};

    pid_t child = fork();
    if (child == 0) {
        execv(arguments[0], words);
        _exit(99);
    }
    CHECK_EQ(status_of(child), 0, "fork and exec: only the socket without CLOEXEC is there");
    child = vfork();
    if (child == 0) {
        execv(arguments[0], words);
        _exit(99);
    }
    CHECK_EQ(status_of(child), 0, "vfork and exec too");
    CHECK_EQ(posix_spawn(&child, arguments[0], NULL, NULL, words, environ), 0, "posix_spawn");
    CHECK_EQ(status_of(child), 0, "its child too");
    snprintf(command, sizeof command, "exec '%s' %s", arguments[0], number);
    CHECK_EQ(system(command), 0, "system too");
    /* A child that gets no socket gets nothing else either. */
    MUST(fcntl(kept, F_SETFD, FD_CLOEXEC));
    FILE *pipe = popen("ls -l /proc/self/fd | grep -c -e eventfd -e memfd:", "r");
    CHECK(pipe != NULL, "popen");
    char line[64] = "";
    CHECK(fgets(line, sizeof line, pipe) && atoi(line) == 0, "its child sees nothing of the library's");
    pclose(pipe);

    CHECK_ERRNO(execl("/nowhere", "nowhere", NULL), ENOENT, "an exec that fails: ENOENT");
    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(read(fd, &byte, 1), 1, "and the connection works as before");
    MUST(peer_number(control));
    close(kept);
    close(closed);
    close(udp);
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "its last close sends the FIN: no child has kept it");
    return t_end();
}
