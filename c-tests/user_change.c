/* Root, or its capabilities, are given up before the first socket is made, as daemons do: sockets work as before, in the
 * process and in its children. Run by an ordinary user, or in a user namespace, there is nobody to become, and only the
 * sockets are shown. */
#include "t.h"
#include <linux/capability.h>
#include <sys/syscall.h>

/* libc has the function and no header for it. */
int capset(struct __user_cap_header_struct *header, const struct __user_cap_data_struct *data);

/* All capabilities go, the user stays, as with named. */
static void give_up(bool by_number)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    (void)!(by_number ? syscall(SYS_capset, &header, none) : capset(&header, none));
}

static void become(int which)
{
    /* The lowest numbers of nobody in particular. */
    const uid_t user = 65534;
    if (getuid() != 0)
        return;
    if (which == 0)
        (void)!setuid(user);
    else if (which == 1)
        (void)!setresuid(user, user, user);
    else if (which == 2)
        (void)!setreuid(user, user);
    else if (which == 3)
        (void)!seteuid(user);
    else
        give_up(which == 5);
}

/* An echo through a child, too. */
static int works(void)
{
    char data[4] = "";
    int fd = peer_connect(PORT_ECHO);
    if (fd < 0 || write(fd, "echo", 4) != 4 || t_read_all(fd, data, 4) != 4 || memcmp(data, "echo", 4) != 0)
        return 1;
    pid_t child = fork();
    if (child == 0)
        _exit(write(fd, "fork", 4) == 4 && t_read_all(fd, data, 4) == 4 && memcmp(data, "fork", 4) == 0 ? 0 : 2);
    int status = -1;
    waitpid(child, &status, 0);
    close(fd);
    int listener = t_tcp(0);
    if (status != 0 || t_bind(listener, T_LOCAL, 0) != 0 || listen(listener, 1) != 0)
        return 3;
    close(listener);
    return 0;
}

int main(void)
{
    static const char *const names[] = {"setuid", "setresuid", "setreuid", "seteuid", "capset", "capset by its number"};
    t_begin();
    for (int which = 0; which < 6; which++) {
        pid_t child = MUST(fork());
        if (child == 0) {
            become(which);
            _exit(works());
        }
        int status = -1;
        waitpid(child, &status, 0);
        CHECK_EQ(status, 0, names[which]);
    }
    return t_end();
}
