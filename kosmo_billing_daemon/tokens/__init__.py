"""Bearer tokens: whose they are, if they can be trusted. The home of PyJWT, and of fetching its keys."""
