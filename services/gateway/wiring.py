"""What the gateway's process has besides the standard parts: its limits and the meter of tokens."""

import asyncio
from dataclasses import dataclass, field

from services.gateway.limits import RateLimits
from services.gateway.meter import TokenMeter
from shared.wiring import Wiring


@dataclass
class GatewayWiring(Wiring):
    rates: RateLimits = field(init=False, repr=False)
    meter: TokenMeter = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rates = RateLimits(self.settings)
        self.meter = TokenMeter(self.rates, self.database)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.meter.close)
        await self.rates.close()
        await super().aclose()
