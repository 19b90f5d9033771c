"""The guard: what stands before and after the model, in chat, on the web, behind the API and in evaluation alike.

    conversation --red flags, the model's own urgency--> Verdict --> fixed text in front of the answer
    answer --screens for doses, urgency, disclaimer--> notes behind it

Nothing of the model's answer is left out. The guard sees some emergencies and misses others; no text of it says more.
"""
