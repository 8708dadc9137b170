"""What routing inside another engine takes, whichever it is: the price loop and the counts of what was routed."""
