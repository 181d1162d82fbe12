"""The bench: how long a store's verbs take, beside other stores, in a process of its own. It decides nothing."""
