/* An idle container's command: it sleeps until a signal ends it. */
#include <unistd.h>

int main(void)
{
    for (;;)
        pause();
}
