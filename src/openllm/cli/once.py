"""Commands whose flags are settings: each is given but once."""

from __future__ import annotations

from collections import Counter

import click


class OnceCommand(click.Command):
    """Refuses a flag that is given twice, of which click itself would take the last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:  # What a shell completes is not whole yet.
            return rest
        for option, times in Counter(each for each in order if _is_single(each)).items():
            if times > 1:
                raise click.UsageError(f"{option.opts[0]} is given twice; leave one out", ctx)
        return rest


def _is_single(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.multiple
