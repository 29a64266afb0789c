"""What carries the routes: which connections are admitted, under which names, and how they are drained."""
