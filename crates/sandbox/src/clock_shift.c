/* Preloaded into a test's process: shifts the time of day by SANDBOX_CLOCK_SHIFT seconds. Other clocks are not changed. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    const char *shift = getenv("SANDBOX_CLOCK_SHIFT");
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && shift && clock == CLOCK_REALTIME) {
        now->tv_sec += atol(shift);
    }
    return failed;
}
