/* Preloaded into a process and its children: refuses and reports look-ups and connections that leave this machine. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void report(const char *what, const char *where) {
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s (process %d)\n", what, where, (int)getpid());
    const char *path = getenv("GUARD_REPORT");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (file >= 0) {
        if (write(file, line, length) < 0) abort();
        close(file);
    }
}

static int is_local(const struct sockaddr *address) {
    if (address == NULL) return 1;
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    if (address->sa_family == AF_INET6) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *)address)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(ip) || (IN6_IS_ADDR_V4MAPPED(ip) && ip->s6_addr[12] == 127);
    }
    return 1; /* sockets of this machine alone, such as AF_UNIX and AF_NETLINK */
}

static int refuse(const char *what, const struct sockaddr *address) {
    if (is_local(address)) return 0;
    char where[INET6_ADDRSTRLEN] = "?";
    const void *ip = address->sa_family == AF_INET ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
                                                   : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;
    inet_ntop(address->sa_family, ip, where, sizeof where);
    report(what, where);
    errno = ENETUNREACH;
    return 1;
}

static int is_local_name(const char *name) {
    struct in_addr four;
    struct in6_addr six;
    return name == NULL || *name == 0 || strcmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &four) == 1 ||
           inet_pton(AF_INET6, name, &six) == 1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    return refuse("connect", address) ? -1 : NEXT(connect)(fd, address, length);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    return refuse("sendto", address) ? -1 : NEXT(sendto)(fd, data, size, flags, address, length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return refuse("sendmsg", message->msg_name) ? -1 : NEXT(sendmsg)(fd, message, flags);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    for (unsigned int i = 0; i < count; i++)
        if (refuse("sendmmsg", messages[i].msg_hdr.msg_name)) return -1;
    return NEXT(sendmmsg)(fd, messages, count, flags);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    if (is_local_name(name)) return NEXT(getaddrinfo)(name, service, hints, result);
    report("getaddrinfo", name);
    return EAI_FAIL;
}

struct hostent *gethostbyname(const char *name) {
    if (is_local_name(name)) return NEXT(gethostbyname)(name);
    report("gethostbyname", name);
    return NULL;
}

struct hostent *gethostbyname2(const char *name, int family) {
    if (is_local_name(name)) return NEXT(gethostbyname2)(name, family);
    report("gethostbyname2", name);
    return NULL;
}

int gethostbyname_r(const char *name, struct hostent *entry, char *buffer, size_t size, struct hostent **result,
                    int *problem) {
    if (is_local_name(name)) return NEXT(gethostbyname_r)(name, entry, buffer, size, result, problem);
    report("gethostbyname_r", name);
    *result = NULL;
    *problem = NO_RECOVERY;
    return -1;
}
