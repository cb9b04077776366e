/* The program that every launcher launches: it does nothing, so what is measured is the launching. */
int main(void)
{
    return 0;
}
