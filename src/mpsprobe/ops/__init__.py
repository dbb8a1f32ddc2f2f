"""The op uses of a target: the verdict on each, and their replay one by one."""
